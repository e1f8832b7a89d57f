//! The machine: one vCPU, its memory, its devices, and what it may see.

use crate::action::Stop;
use crate::bench::Bench;
use crate::counters::{Counters, Kind};
use crate::cpuid::Cpuid;
use crate::devices::fw_cfg::FwCfg;
use crate::devices::{self, Devices, Now};
use crate::events::Events;
use crate::exits::{Refused, Unprotected};
use crate::fetch::CodeCache;
use crate::host::Host;
use crate::memory::{GuestMemory, HostMemory, Memslot, SlotChange, SlotError, SlotId};
use crate::msr::{Msrs, policy};
use crate::samples::Samples;
use crate::start::StartState;
use crate::translation::Translation;
use crate::uhyve::Files;
use crate::until::Until;
use alloc::string::String;
use anchorite_addr::{Gfn, Hfn};
use anchorite_shadow::Registers as PagingRegisters;
use anchorite_vcpu::{ControlRegister, Cr4, Vcpu, Vector};
use core::num::NonZeroU64;

/// Memory that the guest adds, moves and deletes by hypercalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its first host frame.
    pub host: Hfn,
    /// How many 4 KiB frames follow.
    pub frames: u64,
}

/// What can be chosen when a machine is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The run ends with a verdict after so many seconds of the host's clock.
    pub limit_seconds: u32,
    /// All shadow pages are zapped so many times a second while the guest runs; 0 for never.
    pub zaps_per_second: u32,
    /// The remap window, which lies nowhere at first.
    pub window: Option<Window>,
    /// A reset by a port is how the guest ends well.
    pub reset_passes: bool,
    /// A triple fault is.
    pub triple_fault_passes: bool,
    /// What the devices are.
    pub devices: devices::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            limit_seconds: 60,
            reset_passes: false,
            triple_fault_passes: false,
            zaps_per_second: 0,
            window: None,
            devices: devices::Config::default(),
        }
    }
}

/// A machine with one vCPU of the backend `B`, translation `T`, on the host `H`.
#[derive(Debug)]
pub struct Machine<B, T, H: Host> {
    pub(crate) vcpu: B,
    pub(crate) translation: T,
    pub(crate) memory: GuestMemory<H::Memory>,
    pub(crate) host: H,
    pub(crate) devices: Devices,
    pub(crate) events: Events,
    pub(crate) code_cache: CodeCache<<H::Memory as HostMemory>::Word>,
    pub(crate) counters: Counters,
    pub(crate) bench: Bench,
    pub(crate) samples: Samples,
    /// When the guest was left, and what that exit will be accounted as.
    pub(crate) left: u64,
    pub(crate) kind: Kind,
    /// When the run began.
    pub(crate) started: u64,
    /// The run ends when the clock stands here.
    pub(crate) deadline: u64,
    /// The next zap-all by the clock is due when it stands here.
    pub(crate) zap_at: u64,
    /// The earlier of the two.
    pub(crate) alarm: u64,
    /// When the host was last asked to interrupt the guest.
    pub(crate) wake: u64,
    pub(crate) hertz: NonZeroU64,
    pub(crate) cpuid: Cpuid,
    pub(crate) cr4_bits: Cr4,
    pub(crate) physical_bits: u32,
    /// Of a canonical address, as MSRs check it.
    pub(crate) linear_bits: u32,
    pub(crate) msrs: Msrs,
    pub(crate) tsc_offset: u64,
    /// The page tables that the guest was last let write to.
    pub(crate) unprotected: Unprotected,
    /// The access that the processor last refused although the tables permit it.
    pub(crate) refused: Refused,
    /// Typed, but the guest's UART had no room for it yet.
    pub(crate) typed: Option<u8>,
    /// The text that ends the run.
    pub(crate) until: Option<Until>,
    /// What a Hermit kernel may open.
    pub(crate) files: Files,
    pub(crate) config: Config,
}

impl<B: Vcpu, T: Translation, H: Host> Machine<B, T, H> {
    /// A machine without memory, its vCPU not started.
    ///
    /// `vcpu` is as its backend made it; ports and MSRs that the guest may use
    /// without an exit are opened here. `cpuid` says what features the guest has: what
    /// it does not show faults.
    pub fn new(
        mut vcpu: B,
        translation: T,
        memory: H::Memory,
        host: H,
        cpuid: Cpuid,
        config: Config,
    ) -> Self {
        open_intercepts(&mut vcpu, &cpuid, translation.follows_paging());
        let hertz = host.hertz();
        // Made where the caller wants it: it is large.
        Self {
            vcpu,
            translation,
            memory: GuestMemory::new(memory),
            devices: Devices::new(config.devices),
            events: Events::default(),
            code_cache: CodeCache::default(),
            counters: Counters::default(),
            bench: Bench::default(),
            samples: Samples::default(),
            left: 0,
            kind: Kind::START,
            started: 0,
            deadline: u64::MAX,
            zap_at: u64::MAX,
            alarm: u64::MAX,
            wake: u64::MAX,
            hertz,
            cr4_bits: cpuid.cr4_bits(),
            physical_bits: cpuid.physical_bits(),
            linear_bits: cpuid.linear_bits(),
            cpuid,
            msrs: Msrs::default(),
            tsc_offset: 0,
            unprotected: Unprotected::default(),
            refused: Refused::default(),
            typed: None,
            until: None,
            files: Files::default(),
            config,
            host,
        }
    }

    /// The run ends well once the guest has printed this.
    pub fn stop_at(&mut self, text: Until) {
        self.until = Some(text);
    }

    /// The guest is a Hermit kernel started as uhyve does: it may make uhyve's hypercalls, and
    /// read `files` by them.
    pub fn serve_uhyve(&mut self, files: Files) {
        self.devices.add_uhyve();
        self.files = files;
    }

    /// What the configuration device tells, where the devices have one.
    pub fn serve_fw_cfg(&mut self, fw_cfg: FwCfg) {
        self.devices.fw_cfg = fw_cfg;
    }

    /// Adds guest memory; see [`GuestMemory::add_slot`].
    pub fn add_slot(&mut self, slot: Memslot) -> Result<(), SlotError> {
        let change = self.memory.add_slot(slot)?;
        self.slot_changed(&change);
        Ok(())
    }

    /// Takes guest memory away. Its host memory is free once the guest has run again.
    pub fn delete_slot(&mut self, id: SlotId) -> Result<(), SlotError> {
        let change = self.memory.delete_slot(id)?;
        self.slot_changed(&change);
        Ok(())
    }

    /// Moves guest memory to another guest-physical address.
    pub fn move_slot(&mut self, id: SlotId, first: Gfn) -> Result<(), SlotError> {
        let change = self.memory.move_slot(id, first)?;
        self.slot_changed(&change);
        Ok(())
    }

    /// Makes guest memory read-only or writable.
    pub fn set_slot_read_only(&mut self, id: SlotId, read_only: bool) -> Result<(), SlotError> {
        let change = self.memory.set_slot_read_only(id, read_only)?;
        self.slot_changed(&change);
        Ok(())
    }

    /// Gives the vCPU the state of its first instruction.
    pub fn start(&mut self, state: &StartState) -> Result<(), Stop> {
        state.apply(&mut self.vcpu);
        if self.translation.usage().is_none_or(|usage| usage.taken == 0) {
            // No table is shadowed: what the loader wrote concerns nobody.
            self.memory.writes().clear();
        }
        let registers = self.paging_registers();
        self.translation
            .registers_changed(None, registers)
            .map_err(|_| Stop::Unsupported { what: "this start state's CR3" })
    }

    /// Guest memory, for a loader to fill.
    pub const fn memory(&mut self) -> &mut GuestMemory<H::Memory> {
        &mut self.memory
    }

    /// The devices.
    pub const fn devices(&self) -> &Devices {
        &self.devices
    }

    /// The host.
    pub const fn host(&mut self) -> &mut H {
        &mut self.host
    }

    /// The vCPU.
    pub const fn vcpu(&self) -> &B {
        &self.vcpu
    }

    /// The translation.
    pub const fn translation(&self) -> &T {
        &self.translation
    }

    /// Checks that the translation is as it must be; see [`Translation::audit`].
    pub fn audit(&mut self) -> Result<(), String> {
        while let Some(write) = self.memory.writes().take() {
            self.translation.guest_wrote(write);
        }
        self.translation.audit()
    }

    /// What the exits were and cost.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The shadow pages whenever the guest asked for a sample.
    pub const fn samples(&self) -> &Samples {
        &self.samples
    }

    /// The host's TSC when the guest was entered for the first time.
    pub const fn first_entry(&self) -> u64 {
        self.started.wrapping_add(self.counters.until_first_entry())
    }

    /// MSR accesses that nothing answered.
    pub const fn msrs(&self) -> &Msrs {
        &self.msrs
    }

    /// The time of the last exit, for devices.
    #[inline]
    pub(crate) const fn now(&self) -> Now {
        Now::new(self.left, self.hertz)
    }

    /// The registers that decide how the guest's addresses are translated.
    pub(crate) fn paging_registers(&self) -> PagingRegisters {
        use anchorite_shadow::{Cr0, Cr4, Efer};
        PagingRegisters {
            cr0: Cr0::from_bits_retain(self.vcpu.control(ControlRegister::Cr0)),
            cr3: self.vcpu.control(ControlRegister::Cr3),
            cr4: Cr4::from_bits_retain(self.vcpu.control(ControlRegister::Cr4)),
            efer: Efer::from_bits_retain(self.vcpu.control(ControlRegister::Efer)),
        }
    }

    fn slot_changed(&mut self, change: &SlotChange) {
        self.translation.slot_changed(self.memory.slots(), change);
    }
}

/// Lets a guest that sees `cpuid` do without an exit what it may.
fn open_intercepts(vcpu: &mut impl Vcpu, cpuid: &Cpuid, follows_paging: bool) {
    vcpu.permit_instructions(cpuid.instructions());
    for rule in policy::TABLE.iter().filter(|rule| Msrs::passes(rule)) {
        if !rule.exists(cpuid) {
            continue;
        }
        for index in rule.first..=rule.last {
            vcpu.intercept_msr(index, false, false);
        }
    }
    vcpu.intercept_paging(follows_paging);
    // A guest can make its CPU raise either while it delivers the other, without
    // end and without an exit: CVE-2015-5307, CVE-2015-8104.
    vcpu.intercept_exceptions(1 << Vector::DEBUG.0 | 1 << Vector::ALIGNMENT_CHECK.0);
}
