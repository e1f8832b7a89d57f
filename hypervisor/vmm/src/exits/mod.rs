//! What each exit means: one file a kind, one method of the machine an exit.

mod control;
mod cpuid;
mod debug;
mod environment;
#[cfg(test)]
mod feature_tests;
mod fw_cfg;
mod halt;
mod hypercall;
mod io;
mod misc;
mod msr;
mod nested_fault;
mod page_fault;
mod refused;
mod table_write;
mod uhyve;
mod window;

pub(crate) use io::is_lightest;
pub(crate) use misc::hidden_instruction;
pub(crate) use msr::general_protection;
pub(crate) use refused::Refused;
pub(crate) use table_write::Unprotected;
