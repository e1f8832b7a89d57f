//! The vendor-neutral vCPU contract.
#![no_std]
#![forbid(unsafe_code)]
