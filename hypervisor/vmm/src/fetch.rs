//! The bytes of the instruction that exited.
//!
//! A CPU without NRIPS does not tell an instruction's length, so that every CPUID,
//! RDMSR and the like has to be read from guest memory. Most come from few places:
//! the last walk of the guest's tables is remembered with the entries it read, and
//! used again as long as the same registers and slots are in force and a second look
//! finds the same entries. So it is right whatever the guest did to its tables
//! between two exits.

use crate::action::{ExitAction, Stop};
use crate::emulate::length::MAX_LENGTH;
use crate::emulate::{CodeSize, Mode, instruction_length};
use crate::host::Host;
use crate::machine::Machine;
use crate::memory::{HostMemory, Walk, WalkError};
use crate::translation::Translation;
use anchorite_addr::{Gpa, Gva, Hpa, PAGE_BYTES};
use anchorite_shadow::{Access, AccessKind, Registers};
use anchorite_vcpu::{ControlRegister, Event, SegmentRegister, Vcpu, Vector};

/// The walk that led to the last instruction fetched.
#[derive(Debug, Default)]
pub(crate) struct WalkCache {
    walk: Option<Remembered>,
}

#[derive(Debug)]
struct Remembered {
    /// The linear page, by its number.
    page: u64,
    registers: Registers,
    slots: u64,
    walk: Walk,
    /// Host address of the page that the walk led to.
    host: Hpa,
}

/// The bytes at RIP, as many as could be read.
pub(crate) struct InstructionBytes {
    bytes: [u8; MAX_LENGTH],
    used: usize,
}

impl InstructionBytes {
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.used]
    }
}

impl<B: Vcpu, T: Translation, H: Host> Machine<B, T, H> {
    /// Goes past the instruction that exited.
    #[inline]
    pub(crate) fn skip(&mut self) -> ExitAction {
        match self.vcpu.instruction_length() {
            Some(length) => ExitAction::SkipInstruction(length),
            None => self.skip_by_decoding(),
        }
    }

    /// The same where the CPU does not tell the length.
    #[inline]
    fn skip_by_decoding(&mut self) -> ExitAction {
        let (linear, code) = self.linear_rip();
        let length =
            self.first_bytes(linear).and_then(|bytes| instruction_length(&bytes, code).ok());
        match length {
            Some(length) => ExitAction::SkipInstruction(length),
            None => self.skip_slowly(code),
        }
    }

    #[cold]
    fn skip_slowly(&mut self, code: CodeSize) -> ExitAction {
        let bytes = match self.instruction_bytes() {
            Ok(bytes) => bytes,
            Err(action) => return action,
        };
        match instruction_length(bytes.as_slice(), code) {
            Ok(length) => ExitAction::SkipInstruction(length),
            Err(_) => ExitAction::Stop(Stop::Emulation { what: "no instruction", gpa: None }),
        }
    }

    /// The first three bytes, by the remembered walk or a new one; `None` where they
    /// do not lie in one page, or cannot be read.
    #[inline]
    fn first_bytes(&mut self, linear: Gva) -> Option<[u8; 3]> {
        if linear.page_offset() > PAGE_BYTES - 8 {
            return None;
        }
        let page = match self.recall(linear) {
            Some(page) => page,
            None => self.locate(linear).ok()?,
        };
        let at = page.wrapping_add(linear.page_offset());
        let mut bytes = [0; 3];
        self.memory.host().read(at, &mut bytes).ok()?;
        Some(bytes)
    }

    /// Up to 15 bytes at RIP: fewer where the next page cannot be fetched.
    /// An error is what to do because the first cannot.
    pub(crate) fn instruction_bytes(&mut self) -> Result<InstructionBytes, ExitAction> {
        let mut read = InstructionBytes { bytes: [0; MAX_LENGTH], used: 0 };
        let delivered = self.vcpu.instruction_bytes();
        if !delivered.is_empty() {
            read.used = delivered.len().min(MAX_LENGTH);
            read.bytes[..read.used].copy_from_slice(&delivered[..read.used]);
            return Ok(read);
        }

        let (linear, _) = self.linear_rip();
        let there = (PAGE_BYTES - linear.page_offset()).min(MAX_LENGTH as u64) as usize;
        let page = self.locate(linear).map_err(|error| self.fetch_failed(error))?;
        let at = page.wrapping_add(linear.page_offset());
        let fetched = self.memory.host().read(at, &mut read.bytes[..there]);
        fetched.map_err(|_| no_memory(None))?;
        read.used = there;
        if there < MAX_LENGTH {
            self.fetch_rest(linear.wrapping_add(there as u64), &mut read);
        }
        Ok(read)
    }

    /// Instructions may end at the end of a page: what cannot be read is left out.
    fn fetch_rest(&mut self, next: Gva, read: &mut InstructionBytes) {
        let Ok(walk) = self.walk_to(next, AccessKind::Execute) else { return };
        if self.memory.read(walk.gpa, &mut read.bytes[read.used..]).is_ok() {
            read.used = MAX_LENGTH;
        }
    }

    /// Where the page of `linear` lies, if the last walk still holds.
    #[inline]
    fn recall(&mut self, linear: Gva) -> Option<Hpa> {
        let known = self.walk_cache.walk.as_ref()?;
        let current = known.page == linear.frame().number()
            && known.registers.cr3 == self.vcpu.control(ControlRegister::Cr3)
            && known.registers.cr0.bits() == self.vcpu.control(ControlRegister::Cr0)
            && known.registers.cr4.bits() == self.vcpu.control(ControlRegister::Cr4)
            && known.registers.efer.bits() == self.vcpu.control(ControlRegister::Efer)
            && known.slots == self.memory.slots().generation();
        if !current {
            return None;
        }
        let host = self.memory.host();
        for step in known.walk.steps() {
            let value = if known.walk.wide {
                host.load_u64(step.at).ok()?
            } else {
                host.load_u32(step.at).ok()?.into()
            };
            // The CPU may set A and D bits at any time; they lead nowhere else.
            if value != step.value {
                return None;
            }
        }
        self.counters.fetch_hits += 1;
        Some(known.host)
    }

    /// Walks to the page of `linear` and remembers how.
    fn locate(&mut self, linear: Gva) -> Result<Hpa, WalkError> {
        self.counters.fetch_walks += 1;
        let walk = self.walk_to(linear, AccessKind::Execute)?;
        let page = Gpa::new(walk.gpa.as_u64() - walk.gpa.page_offset());
        let missing = crate::memory::AccessError::NoMemory { gpa: page };
        let host = self.memory.slots().host_address(page).ok_or(WalkError::NoTable(missing))?;
        self.walk_cache.walk = Some(Remembered {
            page: linear.frame().number(),
            registers: self.paging_registers(),
            slots: self.memory.slots().generation(),
            walk,
            host,
        });
        Ok(host)
    }

    /// Where an access to `gva` with the guest's present privileges lands.
    pub(crate) fn walk_to(&self, gva: Gva, kind: AccessKind) -> Result<Walk, WalkError> {
        let access = Access { user: self.vcpu.cpl() == 3, ..Access::supervisor(kind) };
        let access = Access { ac: self.alignment_flag(), ..access };
        let bits = self.physical_bits;
        self.memory.walk(&self.paging_registers(), bits, gva, access)
    }

    /// RIP as a linear address, and the size of the code there.
    #[inline]
    fn linear_rip(&self) -> (Gva, CodeSize) {
        let rip = self.vcpu.regs().rip;
        if rip >> 32 != 0 {
            return (Gva::new(rip), CodeSize::Bits64);
        }
        match Mode::of(&self.vcpu).code {
            CodeSize::Bits64 => (Gva::new(rip), CodeSize::Bits64),
            code => {
                let base = self.vcpu.segment(SegmentRegister::Cs).base;
                (Gva::new(base.wrapping_add(rip) & 0xffff_ffff), code)
            }
        }
    }

    #[cold]
    fn fetch_failed(&mut self, error: WalkError) -> ExitAction {
        match error {
            WalkError::Fault(fault) => {
                self.vcpu.set_control(ControlRegister::Cr2, fault.cr2.as_u64());
                ExitAction::Inject(Event::fault(Vector::PAGE_FAULT, fault.code.bits()))
            }
            WalkError::NoTable(crate::memory::AccessError::NoMemory { gpa }) => {
                no_memory(Some(gpa))
            }
            WalkError::NoTable(_) => no_memory(None),
        }
    }
}

fn no_memory(gpa: Option<Gpa>) -> ExitAction {
    ExitAction::Stop(Stop::Emulation { what: "no memory to fetch an instruction from", gpa })
}

#[cfg(test)]
mod tests;
