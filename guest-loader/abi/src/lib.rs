//! The guest protocol.
#![no_std]
#![forbid(unsafe_code)]
