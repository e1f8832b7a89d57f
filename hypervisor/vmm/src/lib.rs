//! The machine: memory slots, translation, the run loop, exits, devices.
//!
//! A [`Machine`] is generic over the backend that runs its vCPU
//! ([`Vcpu`](anchorite_vcpu::Vcpu)), over what translates the guest's addresses
//! ([`Translation`](translation::Translation)) and over the host under it
//! ([`Host`]). It never asks which vendor's CPU it runs on.
//!
//! | file | answers |
//! |---|---|
//! | [`machine`] | what a machine consists of |
//! | [`start`] | the state a guest starts in |
//! | `run` | the run loop: ready, enter, leave, decide |
//! | `exits` | what each exit means |
//! | `events` | which exception or interrupt is delivered when |
//! | `fetch` | the bytes of the instruction that exited |
//! | [`memory`] | slots, guest memory, the one door for writes, the guest's tables |
//! | [`translation`] | what stands at the root: nested tables, or the shadow engine |
//! | [`cpuid`], [`msr`] | what the guest is shown, as tables |
//! | [`devices`], [`emulate`] | the devices; instructions that access them |
//! | [`uhyve`] | the files that a Hermit kernel asks for by hypercalls |
//! | [`firmware`] | the tables that a PC's firmware leaves in memory |
//! | [`counters`] | what the exits were and cost |
//! | [`mod@bench`] | a benchmark guest's commands, its zaps timed |
//! | [`samples`] | how many shadow pages were in use, when the guest asked |
//! | [`action`] | what a handler decided, how a run ended |
//! | [`host`] | what the machine asks of the host |
//!
//! # How to make one
//! ```ignore
//! // `Format` is the backend's `NestedFormat`, `frames` implements `TableFrames`,
//! // `memory` implements `HostMemory`, `host` implements `Host`.
//! let translation = Nested::<Format, _>::new(frames, vcpu.capabilities().nested_1g_pages)?;
//! let mut machine = Machine::new(vcpu, translation, memory, host, Config::default());
//!
//! machine.add_slot(Memslot { id: SlotId(0), first, frames, host: first_hfn, read_only: false })?;
//! machine.memory().place(gpa, bytes)?;                    // what the loader says
//! machine.start(&StartState::protected(entry).with(Gpr::Rax, 0x2bad_b002))?;
//!
//! let outcome = machine.run();
//! machine.counters().write_table(&mut console)?;
//! writeln!(console, "{}{}", Verdict::PREFIX, outcome.verdict())?;
//! ```
//! The host's clock must tick already when a machine is made: CPUID shows its frequency.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod action;
pub mod bench;
pub mod counters;
pub mod cpuid;
pub mod devices;
mod dump;
pub mod emulate;
mod events;
mod exits;
mod fetch;
pub mod firmware;
pub mod host;
pub mod machine;
pub mod memory;
pub mod msr;
mod run;
pub mod samples;
pub mod screen;
pub mod start;
pub mod translation;
pub mod uhyve;
pub mod until;

pub use action::{Outcome, Stop};
pub use dump::Console;
pub use host::Host;
pub use machine::{Config, Machine};
pub use start::{StartMode, StartState};

#[cfg(test)]
mod fake;
