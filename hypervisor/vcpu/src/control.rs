//! Bits of the control registers.

use bitflags::bitflags;

bitflags! {
    /// CR0. Source: SDM vol. 3, 2.5 "Control Registers".
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Cr0: u64 {
        /// Protection enable.
        const PE = 1 << 0;
        /// Monitor coprocessor.
        const MP = 1 << 1;
        /// Emulation.
        const EM = 1 << 2;
        /// Task switched.
        const TS = 1 << 3;
        /// Extension type; always one.
        const ET = 1 << 4;
        /// Numeric error.
        const NE = 1 << 5;
        /// Write protect.
        const WP = 1 << 16;
        /// Alignment mask.
        const AM = 1 << 18;
        /// Not write-through.
        const NW = 1 << 29;
        /// Cache disable.
        const CD = 1 << 30;
        /// Paging.
        const PG = 1 << 31;
    }

    /// CR4. Source: SDM vol. 3, 2.5 "Control Registers".
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Cr4: u64 {
        /// Virtual-8086 mode extensions.
        const VME = 1 << 0;
        /// Protected-mode virtual interrupts.
        const PVI = 1 << 1;
        /// Time stamp disable.
        const TSD = 1 << 2;
        /// Debugging extensions.
        const DE = 1 << 3;
        /// Page size extensions.
        const PSE = 1 << 4;
        /// Physical address extension.
        const PAE = 1 << 5;
        /// Machine-check enable.
        const MCE = 1 << 6;
        /// Page global enable.
        const PGE = 1 << 7;
        /// Performance-counter enable.
        const PCE = 1 << 8;
        /// OS support for FXSAVE and FXRSTOR.
        const OSFXSR = 1 << 9;
        /// OS support for unmasked SIMD exceptions.
        const OSXMMEXCPT = 1 << 10;
        /// User-mode instruction prevention.
        const UMIP = 1 << 11;
        /// 57-bit linear addresses.
        const LA57 = 1 << 12;
        /// VMX enable.
        const VMXE = 1 << 13;
        /// SMX enable.
        const SMXE = 1 << 14;
        /// FSGSBASE instructions.
        const FSGSBASE = 1 << 16;
        /// Process-context identifiers.
        const PCIDE = 1 << 17;
        /// XSAVE and extended states.
        const OSXSAVE = 1 << 18;
        /// Supervisor-mode execution prevention.
        const SMEP = 1 << 20;
        /// Supervisor-mode access prevention.
        const SMAP = 1 << 21;
        /// Protection keys for user pages.
        const PKE = 1 << 22;
    }

    /// IA32_EFER, MSR 0xc0000080. Source: APM vol. 2, 3.1.7
    /// "Extended Feature Enable Register (EFER)".
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Efer: u64 {
        /// SYSCALL and SYSRET.
        const SCE = 1 << 0;
        /// Long mode enable.
        const LME = 1 << 8;
        /// Long mode active.
        const LMA = 1 << 10;
        /// No-execute enable.
        const NXE = 1 << 11;
        /// Secure virtual machine enable.
        const SVME = 1 << 12;
    }

    /// Instructions that a CPU may have a switch or an intercept for.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Instructions: u8 {
        /// RDTSCP, and RDPID with it.
        const RDTSCP = 1 << 0;
        /// INVPCID.
        const INVPCID = 1 << 1;
    }

    /// RFLAGS. Source: SDM vol. 1, 3.4.3 "EFLAGS Register".
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Rflags: u64 {
        /// Carry.
        const CF = 1 << 0;
        /// Always one.
        const FIXED = 1 << 1;
        /// Parity.
        const PF = 1 << 2;
        /// Auxiliary carry.
        const AF = 1 << 4;
        /// Zero.
        const ZF = 1 << 6;
        /// Sign.
        const SF = 1 << 7;
        /// Trap: single step.
        const TF = 1 << 8;
        /// Interrupt enable.
        const IF = 1 << 9;
        /// Direction.
        const DF = 1 << 10;
        /// Overflow.
        const OF = 1 << 11;
        /// I/O privilege level.
        const IOPL = 3 << 12;
        /// Nested task.
        const NT = 1 << 14;
        /// Resume.
        const RF = 1 << 16;
        /// Virtual-8086 mode.
        const VM = 1 << 17;
        /// Alignment check, and SMAP override.
        const AC = 1 << 18;
        /// CPUID can be used.
        const ID = 1 << 21;
    }
}
