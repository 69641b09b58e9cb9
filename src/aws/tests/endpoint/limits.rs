//! Goal: to come.
