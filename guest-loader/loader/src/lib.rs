//! Reads guest files and places them in guest memory.
#![no_std]
#![forbid(unsafe_code)]
