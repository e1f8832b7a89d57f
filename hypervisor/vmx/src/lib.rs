//! The Intel backend: VMX behind the vCPU contract of `anchorite-vcpu`.
//!
//! ```text
//!  VmxCpu::enable ── probe, CR4.VMXE, VMXON          once on each physical CPU
//!      │ vcpu()
//!      ▼
//!  VmxVcpu ── VMCS, I/O and MSR bitmaps, Passive     one for each virtual CPU
//!      │ run()
//!      ▼
//!  claim ─ write back ─ flush ─ inject ─ world switch ─ read few fields ─ decode ─► VmExit
//! ```
//!
//! Everything that can be a function from numbers to numbers is one and is tested
//! on the host; `unsafe` is confined to `instructions`, `world`, and to the few
//! places that hand memory to the hardware.
//!
//! | file | answers |
//! |---|---|
//! | [`capabilities`] | what this CPU offers, from CPUID and the capability MSRs |
//! | [`controls`] | what is intercepted, under nested and under shadow roots; CR0, CR4, EFER |
//! | [`fields`] | which VMCS fields a new vCPU starts with; their names for dumps |
//! | [`decode`] | what a raw exit reason and qualification mean |
//! | [`event`] | how an event is written for entry and read back from an exit |
//! | [`segments`] | segment registers as VM entry accepts them |
//! | [`bitmaps`] | which ports and MSRs exit |
//! | [`ept`] | the entry format of EPT tables |
//! | [`entry_check`] | why the CPU refused to enter the guest |
//! | `instructions` | each privileged instruction, wrapped once |
//! | `world` | the world switch |
//! | `passive` | guest registers that stay loaded while the host runs |
//! | [`vcpu`] | [`VmxVcpu`]: the contract, implemented |
//! | [`cpu`] | [`VmxCpu`]: VMX on one physical CPU |
//!
//! Sections are cited from the Intel SDM, order number 325384-081US, September 2023;
//! "SDM" is its volume 3 unless said otherwise. `hypervisor/svm` is the twin of this
//! crate, file by file.
#![no_std]

pub mod bitmaps;
pub mod capabilities;
pub mod controls;
pub mod cpu;
pub mod decode;
pub mod entry_check;
pub mod ept;
pub mod event;
pub mod fields;
mod instructions;
mod passive;
pub mod segments;
#[cfg(test)]
mod testing;
pub mod vcpu;
mod world;

pub use cpu::VmxCpu;
pub use ept::Ept;
pub use vcpu::VmxVcpu;

/// Reads VMCS fields by their encoding: the current VMCS, or captured values in tests.
pub trait FieldSource {
    /// The field's value; 0 where the CPU does not have the field.
    fn read(&self, field: u32) -> u64;
}
