//! The AMD backend: SVM behind the vCPU contract of `anchorite-vcpu`.
//!
//! ```text
//!  SvmCpu::enable ── probe, EFER.SVME, VM_HSAVE_PA   once on each physical CPU
//!      │ vcpu()
//!      ▼
//!  SvmVcpu ── VMCB, I/O and MSR maps, Passive        one for each virtual CPU
//!      │ run()
//!      ▼
//!  CLGI ─ claim ─ (prepare) ─ write back ─ world switch ─ STGI ─ read back ─ decode ─► VmExit
//! ```
//!
//! Everything that can be a function from numbers to numbers is one and is tested
//! on the host; `unsafe` is confined to `instructions`, `world`, `passive`, and to the
//! few places that hand memory to the hardware.
//!
//! | file | answers |
//! |---|---|
//! | [`capabilities`] | what this CPU offers, from CPUID and VM_CR |
//! | [`controls`] | what is intercepted, under nested and under shadow roots; CR0, CR4, EFER |
//! | `fields` | the layout of the VMCB, checked by the compiler; its names for dumps |
//! | [`decode`] | what a raw exit code and its information mean |
//! | [`event`] | how an event is written for entry and read back from an exit |
//! | `segments` | segment registers in the VMCB's form |
//! | [`bitmaps`] | which ports and MSRs exit |
//! | [`npt`] | the entry format of nested tables |
//! | [`entry_check`] | why the CPU refused to enter the guest |
//! | `instructions` | each privileged instruction, wrapped once |
//! | `world` | the world switch |
//! | `passive` | guest registers that stay loaded while the host runs |
//! | [`asid`] | how translations of vCPUs are told apart |
//! | [`vcpu`] | [`SvmVcpu`]: the contract, implemented |
//! | [`cpu`] | [`SvmCpu`]: SVM on one physical CPU |
//!
//! # Two windows SVM has not
//!
//! *Interrupts.* SVM has no interrupt-window exit. A virtual interrupt is pretended
//! (V_IRQ) and its delivery intercepted (VINTR), which happens exactly when the guest
//! can take one. Interrupts are delivered by EVENTINJ, but under QEMU's emulator by V_IRQ
//! without the intercept, because it can deliver the other kind twice. There the one
//! mechanism serves both, so a window asked for while an interrupt is on its way opens
//! at the first exit after the guest has taken it. And there a physical interrupt can get
//! lost at an entry with V_IRQ, so CR8 is written after such an exit (`delivery`).
//!
//! *NMIs.* Without V_NMI the hardware does not tell whether the guest handles an NMI.
//! From an injected NMI until the guest's next IRET they count as blocked: IRET exits,
//! is stepped over with RFLAGS.TF, and the debug exception after it opens the window.
//!
//! Sections are cited from the AMD64 Architecture Programmer's Manual, order numbers
//! 24593 (volume 2, revision 3.42) and 24594 (volume 3, revision 3.36). `hypervisor/vmx`
//! is the twin of this crate, file by file.
#![no_std]

pub mod asid;
pub mod bitmaps;
pub mod capabilities;
pub mod controls;
pub mod cpu;
pub mod decode;
pub mod entry_check;
pub mod event;
mod fields;
mod instructions;
pub mod npt;
mod passive;
mod segments;
pub mod vcpu;
mod world;

pub use cpu::SvmCpu;
pub use npt::Npt;
pub use vcpu::SvmVcpu;

/// Reads the fields that describe an exit: a VMCB, or captured values in tests.
pub trait FieldSource {
    /// EXITINFO1.
    fn exit_info_1(&self) -> u64;
    /// EXITINFO2.
    fn exit_info_2(&self) -> u64;
    /// DR6.
    fn dr6(&self) -> u64;
}
