"""From a raw catalogue to item features: encoders, the writing of their work, and checks."""
