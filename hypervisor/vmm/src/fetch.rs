//! The bytes of the instruction that exited.
//!
//! A CPU without NRIPS does not tell an instruction's length, so that every CPUID,
//! RDMSR and the like has to be read from guest memory. Most come from few places:
//! the last walk of the guest's tables is remembered with the entries it read, and
//! used again as long as the same registers and slots are in force and a second look
//! finds the same entries. So it is right whatever the guest did to its tables
//! between two exits.

use crate::action::{ExitAction, Stop};
use crate::emulate::length::{MAX_LENGTH, unprefixed_length};
use crate::emulate::{CodeSize, Mode, instruction_length};
use crate::host::Host;
use crate::machine::Machine;
use crate::memory::{AccessError, HostMemory, LONGEST, Step, Walk, WalkError};
use crate::translation::Translation;
use anchorite_addr::{Gpa, Gva, Hpa, PAGE_BYTES};
use anchorite_shadow::{Access, AccessKind, Registers};
use anchorite_vcpu::{ControlRegister, Event, SegmentRegister, Vcpu, Vector};

/// The walk that led to the last instruction fetched; `W` is a word of guest memory.
#[derive(Debug)]
pub(crate) struct WalkCache<W>(Option<Remembered<W>>);

impl<W> Default for WalkCache<W> {
    fn default() -> Self {
        Self(None)
    }
}

#[derive(Debug)]
struct Remembered<W> {
    /// The linear page, by its number.
    page: u64,
    registers: Registers,
    slots: u64,
    /// The words that held the walk's entries, and what they held. Shorter walks
    /// repeat the last one: comparing it again is cheaper than counting. `None` with
    /// paging off.
    entries: Option<[(W, u64); LONGEST]>,
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
        match self
            .first_bytes()
            .map(|[first, second, third]| unprefixed_length(first, second, third))
        {
            Some(length) if length != 0 => ExitAction::SkipInstruction(length),
            _ => self.skip_slowly(),
        }
    }

    #[cold]
    fn skip_slowly(&mut self) -> ExitAction {
        let (_, code) = self.linear_rip();
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
    /// do not lie in one page, cannot be read, or lie in a segment with a base.
    #[inline]
    fn first_bytes(&mut self) -> Option<[u8; 3]> {
        let linear = Gva::new(self.vcpu.regs().rip);
        if linear.as_u64() >> 32 == 0 && self.vcpu.segment(SegmentRegister::Cs).base != 0 {
            return None;
        }
        if linear.page_offset() > PAGE_BYTES - 8 {
            return None;
        }
        let page = self.code_page(linear).ok()?;
        let at = page.wrapping_add(linear.page_offset());
        let aligned = Hpa::new(at.as_u64() & !7);
        let shift = 8 * (at.as_u64() & 7);
        let mut word = self.memory.host().load_u64(aligned).ok()? >> shift;
        if shift > 40 {
            word |= self.memory.host().load_u64(aligned.wrapping_add(8)).ok()? << (64 - shift);
        }
        let [first, second, third, ..] = word.to_le_bytes();
        Some([first, second, third])
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
        let page = self.code_page(linear).map_err(|error| self.fetch_failed(error))?;
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

    /// Where the page of `linear` lies.
    #[inline]
    fn code_page(&mut self, linear: Gva) -> Result<Hpa, WalkError> {
        match self.recall(linear) {
            Some(page) => Ok(page),
            None => self.locate(linear),
        }
    }

    /// Where the page of `linear` lies, if the last walk still holds.
    #[inline]
    fn recall(&mut self, linear: Gva) -> Option<Hpa> {
        let known = self.walk_cache.0.as_ref()?;
        let current = known.page == linear.frame().number()
            && known.registers.cr3 == self.vcpu.control(ControlRegister::Cr3)
            && known.registers.cr0.bits() == self.vcpu.control(ControlRegister::Cr0)
            && known.registers.cr4.bits() == self.vcpu.control(ControlRegister::Cr4)
            && known.registers.efer.bits() == self.vcpu.control(ControlRegister::Efer)
            && known.slots == self.memory.slots().generation();
        let host = self.memory.host();
        let holds = |(word, value): &(_, u64)| host.read_word(*word) == *value;
        if !current || !known.entries.as_ref().is_none_or(|entries| entries.iter().all(holds)) {
            return None;
        }
        self.counters.fetch_hits += 1;
        Some(known.host)
    }

    /// Walks to the page of `linear` and remembers how.
    #[cold]
    fn locate(&mut self, linear: Gva) -> Result<Hpa, WalkError> {
        self.counters.fetch_walks += 1;
        let walk = self.walk_to(linear, AccessKind::Execute)?;
        let page = Gpa::new(walk.gpa.as_u64() - walk.gpa.page_offset());
        let missing = AccessError::NoMemory { gpa: page };
        let host = self.memory.slots().host_address(page).ok_or(WalkError::NoTable(missing))?;
        self.walk_cache = WalkCache(self.entries_of(&walk).map(|entries| Remembered {
            page: linear.frame().number(),
            registers: self.paging_registers(),
            slots: self.memory.slots().generation(),
            entries,
            host,
        }));
        Ok(host)
    }

    /// The words that held the entries of `walk`; the outer `None` where one does not
    /// hold it any more.
    #[expect(clippy::type_complexity, reason = "spelled out once")]
    fn entries_of(
        &self,
        walk: &Walk,
    ) -> Option<Option<[(<H::Memory as HostMemory>::Word, u64); LONGEST]>> {
        let host = self.memory.host();
        let word_of = |step: &Step| {
            if walk.wide {
                return host.word(step.at).ok().map(|word| (word, step.value));
            }
            let word = host.word(Hpa::new(step.at.as_u64() & !7)).ok()?;
            let value = host.read_word(word);
            let half = value >> (8 * (step.at.as_u64() & 4)) & 0xffff_ffff;
            (half == step.value).then_some((word, value))
        };
        let Some(last) = walk.steps().last() else { return Some(None) };
        let mut entries = [word_of(last)?; LONGEST];
        for (entry, step) in entries.iter_mut().zip(walk.steps()) {
            *entry = word_of(step)?;
        }
        Some(Some(entries))
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
            WalkError::NoTable(AccessError::NoMemory { gpa }) => no_memory(Some(gpa)),
            WalkError::NoTable(_) => no_memory(None),
        }
    }
}

fn no_memory(gpa: Option<Gpa>) -> ExitAction {
    ExitAction::Stop(Stop::Emulation { what: "no memory to fetch an instruction from", gpa })
}

#[cfg(test)]
mod tests;
