//! Why a run cannot begin.

use anchorite_abi::{DeviceSet, OptionError};
use anchorite_loader::LoadError;
use anchorite_platform::memory::NoRoom;
use anchorite_shadow::{AddVcpuError, ConfigError};
use anchorite_vcpu::Unavailable;
use anchorite_vmm::action::Stop;
use anchorite_vmm::cpuid::CannotHide;
use anchorite_vmm::devices::fw_cfg::{BadFile, MOST_FILES, NAME_BYTES};
use anchorite_vmm::memory::SlotError;
use anchorite_vmm::translation::OutOfTables;
use core::fmt;

/// Why a run cannot begin.
#[derive(Debug)]
pub(crate) enum Failure<'a> {
    /// A word of the command line cannot be obeyed.
    Option(OptionError<'a>),
    /// The guest's RAM does not fit.
    NoRoom(NoRoom),
    /// No module holds a guest.
    NoGuest,
    /// `kind=` names no kind of guest.
    UnknownKind {
        /// The name given.
        kind: &'a str,
    },
    /// `zap=` names no policy of the shadow engine.
    UnknownPolicy {
        /// The name given.
        name: &'a str,
    },
    /// `hide=` names no feature, or one that would work on.
    CannotHide(CannotHide<'a>),
    /// The shadow engine refuses its settings.
    Engine(ConfigError),
    /// The shadow engine refuses the vCPU.
    AddVcpu(AddVcpuError),
    /// The CPU has neither SVM nor VMX.
    NoExtension,
    /// The virtualization extension cannot be used.
    Unavailable(Unavailable),
    /// A memory slot was refused.
    Slot(SlotError),
    /// No memory for the first page table.
    OutOfTables(OutOfTables),
    /// The guest file cannot be loaded.
    Load(LoadError),
    /// A file for the configuration device is refused.
    FwCfg {
        /// Its name there.
        name: &'static str,
        /// Why.
        error: BadFile,
    },
    /// A Hermit kernel uses the local APIC without asking whether there is one.
    HermitWithoutApic {
        /// Its file.
        file: &'a str,
        /// The devices there are.
        devices: DeviceSet,
    },
    /// The start state was refused.
    Start(Stop),
}

impl fmt::Display for Failure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option(error) => error.fmt(f),
            Self::NoRoom(error) => error.fmt(f),
            Self::NoGuest => f.write_str(
                "there is no guest: give the guest's file as the first boot module \
                 (QEMU: -initrd FILE; GRUB: module2 FILE)",
            ),
            Self::UnknownKind { kind } => {
                write!(f, "kind={kind}: {}", anchorite_loader::UnknownKind)
            }
            Self::UnknownPolicy { name } => write!(
                f,
                "zap={name} is not walk, batch, batch:N, quota, reuse, background or tagged"
            ),
            Self::CannotHide(error) => error.fmt(f),
            Self::Engine(error) => write!(f, "the shadow engine cannot be set up: {error:?}"),
            Self::AddVcpu(error) => write!(f, "the shadow engine takes no vCPU: {error:?}"),
            Self::NoExtension => f.write_str(
                "this CPU shows neither SVM (CPUID 0x80000001 ECX bit 2) nor VMX (CPUID 1 ECX \
                 bit 5); use a CPU model that has one, or enable it in the firmware's set-up",
            ),
            Self::Unavailable(error) => error.fmt(f),
            Self::Slot(error) => error.fmt(f),
            Self::OutOfTables(error) => error.fmt(f),
            Self::Load(error) => error.fmt(f),
            Self::FwCfg { name, error: BadFile::Name } => write!(
                f,
                "fw_cfg={name}: a file's name has 1 to {NAME_BYTES} bytes and occurs once"
            ),
            Self::FwCfg { name, error: BadFile::TooMany } => {
                write!(f, "fw_cfg={name}: there are {MOST_FILES} files already; leave some out")
            }
            Self::HermitWithoutApic { file, devices } => write!(
                f,
                "{file}: a Hermit kernel needs a local APIC, which devices={} lacks; \
                 take devices=l4",
                devices.name()
            ),
            Self::Start(stop) => stop.fmt(f),
        }
    }
}

impl<'a> From<OptionError<'a>> for Failure<'a> {
    fn from(error: OptionError<'a>) -> Self {
        Self::Option(error)
    }
}

impl From<NoRoom> for Failure<'_> {
    fn from(error: NoRoom) -> Self {
        Self::NoRoom(error)
    }
}

impl From<Unavailable> for Failure<'_> {
    fn from(error: Unavailable) -> Self {
        Self::Unavailable(error)
    }
}

impl From<SlotError> for Failure<'_> {
    fn from(error: SlotError) -> Self {
        Self::Slot(error)
    }
}

impl From<OutOfTables> for Failure<'_> {
    fn from(error: OutOfTables) -> Self {
        Self::OutOfTables(error)
    }
}

impl From<LoadError> for Failure<'_> {
    fn from(error: LoadError) -> Self {
        Self::Load(error)
    }
}

impl From<Stop> for Failure<'_> {
    fn from(stop: Stop) -> Self {
        Self::Start(stop)
    }
}
