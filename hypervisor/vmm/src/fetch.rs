//! The bytes of the instruction that exited.
//!
//! A CPU without NRIPS and decode assists tells neither an instruction's length nor its
//! operands, so that every CPUID, MOV to CR3, INVLPG and the like has to be read from
//! guest memory. Most come from few places: what was found at an address is remembered
//! with the walk that led there and with the entries that it read, and used again as
//! long as the same registers and slots are in force and a second look finds the same
//! entries and the same bytes. So it is right whatever the guest did to its tables or
//! its code between two exits.

use crate::action::{ExitAction, Stop};
use crate::emulate::length::MAX_LENGTH;
use crate::emulate::{CodeSize, Intercepted, intercepted, store};
use crate::host::Host;
use crate::machine::Machine;
use crate::memory::{AccessError, HostMemory, LONGEST, Step, Walk, WalkError};
use crate::translation::Translation;
use anchorite_addr::{Gpa, Gva, Hpa, PAGE_BYTES};
use anchorite_shadow::{Access, AccessKind, Cr0, Registers};
use anchorite_vcpu::{ControlRegister, Event, SegmentRegister, Vcpu, Vector};

/// Instructions remembered. A power of two.
const KNOWN: usize = 32;

/// The instructions fetched last; `W` is a word of guest memory.
#[derive(Debug)]
pub(crate) struct CodeCache<W>([Option<Known<W>>; KNOWN]);

impl<W> Default for CodeCache<W> {
    fn default() -> Self {
        Self([const { None }; KNOWN])
    }
}

/// An instruction, and how it was found.
#[derive(Clone, Copy, Debug)]
struct Known<W> {
    /// Its linear address.
    linear: u64,
    code: CodeSize,
    registers: Registers,
    slots: u64,
    /// The words that must still hold what they held: the entries of the walk, then those
    /// with the instruction's bytes. Where there are fewer, the first is repeated: comparing
    /// it again is cheaper than counting.
    words: [(W, u64); WORDS],
    /// Host address of its first byte.
    host: Hpa,
    /// What it was decoded to; `None` where its bytes are not among the words.
    decoded: Option<Intercepted>,
}

/// Entries of the longest walk, and the two words that an instruction may lie in.
const WORDS: usize = LONGEST + 2;

impl<W> CodeCache<W> {
    /// Where an instruction's place is: one address under many roots has many.
    const fn place(linear: u64, cr3: u64) -> usize {
        (linear ^ cr3 >> 12) as usize % KNOWN
    }
}

/// The bytes at RIP, as many as could be read.
pub(crate) struct InstructionBytes {
    /// One more than an instruction can have: two words.
    bytes: [u8; MAX_LENGTH + 1],
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
        match self.known_length() {
            Some(length) => ExitAction::SkipInstruction(length),
            None => self.skip_by_decoding_anew(),
        }
    }

    /// The length of the instruction that exited, where it takes no decoding.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "as for `recall`")]
    pub(crate) fn known_length(&self) -> Option<u8> {
        match self.vcpu.instruction_length() {
            None => self.known().map(|instruction| instruction.length),
            length => length,
        }
    }

    #[cold]
    pub(crate) fn skip_by_decoding_anew(&mut self) -> ExitAction {
        match self.decode_anew() {
            Ok(instruction) => ExitAction::SkipInstruction(instruction.length),
            Err(action) => action,
        }
    }

    /// The instruction at RIP. An error is what to do because there is none.
    #[inline]
    pub(crate) fn decoded(&mut self) -> Result<Intercepted, ExitAction> {
        match self.known() {
            Some(&instruction) => Ok(instruction),
            None => self.decode_anew(),
        }
    }

    /// What the instruction at RIP was decoded to before, if that still holds. By
    /// reference, so that whoever needs a part of it copies no more.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "as for `recall`")]
    pub(crate) fn known(&self) -> Option<&Intercepted> {
        Some(self.known_in_code()?.0)
    }

    /// The same, with the size of its code.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "as for `recall`")]
    pub(crate) fn known_in_code(&self) -> Option<(&Intercepted, CodeSize)> {
        let (linear, code) = self.linear_rip();
        Some((self.recall::<WORDS>(linear, code)?.decoded.as_ref()?, code))
    }

    #[cold]
    pub(crate) fn decode_anew(&mut self) -> Result<Intercepted, ExitAction> {
        let (linear, code) = self.linear_rip();
        let bytes = self.instruction_bytes_at(linear, code)?;
        let rip = self.vcpu.regs().rip;
        let instruction = intercepted(bytes.as_slice(), rip, code)
            .map_err(|_| ExitAction::Stop(Stop::Emulation { what: "no instruction", gpa: None }))?;
        self.remember(linear, instruction);
        Ok(instruction)
    }

    /// The instruction at RIP, if it is known, or a MOV to memory. The complete decoder is not
    /// asked.
    #[inline]
    pub(crate) fn known_or_store(&mut self) -> Option<Intercepted> {
        self.known().copied().or_else(|| self.decode_store())
    }

    #[cold]
    fn decode_store(&mut self) -> Option<Intercepted> {
        let (linear, code) = self.linear_rip();
        let bytes = self.instruction_bytes_at(linear, code).ok()?;
        let instruction = store(bytes.as_slice(), self.vcpu.regs().rip, code)?;
        self.remember(linear, instruction);
        Some(instruction)
    }

    /// Keeps what the instruction at `linear` was decoded to beside how it was found, where
    /// its bytes lie in two words of one page.
    fn remember(&mut self, linear: Gva, instruction: Intercepted) {
        let place = CodeCache::<<H::Memory as HostMemory>::Word>::place(
            linear.as_u64(),
            self.vcpu.control(ControlRegister::Cr3),
        );
        let Some(known) = &mut self.code_cache.0[place] else { return };
        let inside = linear.page_offset() <= PAGE_BYTES - 16;
        if known.linear != linear.as_u64() || !inside || instruction.length > 8 {
            return;
        }
        let host = self.memory.host();
        let first = Hpa::new(known.host.as_u64() & !7);
        let (Ok(first), Ok(second)) = (host.word(first), host.word(first.wrapping_add(8))) else {
            return;
        };
        for (place, word) in known.words[LONGEST..].iter_mut().zip([first, second]) {
            *place = (word, host.read_word(word));
        }
        known.decoded = Some(instruction);
    }

    /// Up to 15 bytes at RIP: fewer where the next page cannot be fetched.
    /// An error is what to do because the first cannot.
    pub(crate) fn instruction_bytes(&mut self) -> Result<InstructionBytes, ExitAction> {
        let (linear, code) = self.linear_rip();
        self.instruction_bytes_at(linear, code)
    }

    /// The same for one who knows where RIP points.
    #[inline]
    fn instruction_bytes_at(
        &mut self,
        linear: Gva,
        code: CodeSize,
    ) -> Result<InstructionBytes, ExitAction> {
        let mut read = InstructionBytes { bytes: [0; MAX_LENGTH + 1], used: 0 };
        let delivered = self.vcpu.instruction_bytes();
        if !delivered.is_empty() {
            read.used = delivered.len().min(MAX_LENGTH);
            read.bytes[..read.used].copy_from_slice(&delivered[..read.used]);
            return Ok(read);
        }

        let there = (PAGE_BYTES - linear.page_offset()).min(MAX_LENGTH as u64) as usize;
        let at = match self.recall::<LONGEST>(linear, code) {
            Some(known) => known.host,
            None => self.locate(linear, code).map_err(|error| self.fetch_failed(error))?,
        };
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
        if self.memory.read(walk.gpa, &mut read.bytes[read.used..MAX_LENGTH]).is_ok() {
            read.used = MAX_LENGTH;
        }
    }

    /// What is known of the instruction at `linear`, if its first `COUNT` words still hold what
    /// they held: the walk to it, or its bytes as well.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a tenth of what it costs were the call")]
    fn recall<const COUNT: usize>(
        &self,
        linear: Gva,
        code: CodeSize,
    ) -> Option<&Known<<H::Memory as HostMemory>::Word>> {
        let cr3 = self.vcpu.control(ControlRegister::Cr3);
        let place = CodeCache::<<H::Memory as HostMemory>::Word>::place(linear.as_u64(), cr3);
        let known = self.code_cache.0[place].as_ref()?;
        let current = known.linear == linear.as_u64()
            && known.code == code
            && known.registers.cr3 == cr3
            && known.slots == self.memory.slots().generation()
            && (code == CodeSize::Bits64 || self.same_paging(&known.registers));
        let host = self.memory.host();
        let differ = |(word, value): &(_, u64)| host.read_word(*word) ^ value;
        // Without a branch for each: they hold nearly always.
        let differences = known.words.iter().take(COUNT).fold(0, |all, word| all | differ(word));
        (current && differences == 0).then_some(known)
    }

    /// Whether addresses are translated as when these registers held. Nothing of it can
    /// change while 64-bit code runs, but for which bits are reserved: and the processor
    /// has just fetched the instruction.
    #[cold]
    fn same_paging(&self, known: &Registers) -> bool {
        known.cr0.bits() == self.vcpu.control(ControlRegister::Cr0)
            && known.cr4.bits() == self.vcpu.control(ControlRegister::Cr4)
            && known.efer.bits() == self.vcpu.control(ControlRegister::Efer)
    }

    /// Walks to `linear` and remembers how; its host address.
    #[cold]
    fn locate(&mut self, linear: Gva, code: CodeSize) -> Result<Hpa, WalkError> {
        self.counters.fetch_walks += 1;
        let registers = self.paging_registers();
        let (host, words) = if registers.cr0.contains(Cr0::PG) {
            let walk = self.walk_by(&registers, linear, AccessKind::Execute)?;
            let host = self.host_address(walk.gpa)?;
            (host, self.words_of(&walk))
        } else {
            let host = self.host_address(Gpa::new(linear.as_u64()))?;
            (host, self.word_at(host).map(|word| [word; WORDS]))
        };
        let place =
            CodeCache::<<H::Memory as HostMemory>::Word>::place(linear.as_u64(), registers.cr3);
        self.code_cache.0[place] = words.map(|words| Known {
            linear: linear.as_u64(),
            code,
            registers,
            slots: self.memory.slots().generation(),
            words,
            host,
            decoded: None,
        });
        Ok(host)
    }

    fn host_address(&self, gpa: Gpa) -> Result<Hpa, WalkError> {
        let missing = AccessError::NoMemory { gpa };
        self.memory.slots().host_address(gpa).ok_or(WalkError::NoTable(missing))
    }

    /// The word around `at`, and what it holds.
    fn word_at(&self, at: Hpa) -> Option<(<H::Memory as HostMemory>::Word, u64)> {
        let host = self.memory.host();
        let word = host.word(Hpa::new(at.as_u64() & !7)).ok()?;
        Some((word, host.read_word(word)))
    }

    /// The words that held the entries of `walk`, the first repeated. `None` where one does
    /// not hold its entry any more.
    fn words_of(&self, walk: &Walk) -> Option<[(<H::Memory as HostMemory>::Word, u64); WORDS]> {
        let host = self.memory.host();
        let word_of = |step: &Step| {
            if walk.wide {
                return host.word(step.at).ok().map(|word| (word, step.value));
            }
            let (word, value) = self.word_at(step.at)?;
            let half = value >> (8 * (step.at.as_u64() & 4)) & 0xffff_ffff;
            (half == step.value).then_some((word, value))
        };
        let mut words = [word_of(walk.steps().first()?)?; WORDS];
        for (word, step) in words.iter_mut().zip(walk.steps()).skip(1) {
            *word = word_of(step)?;
        }
        Some(words)
    }

    /// Where an access to `gva` with the guest's present privileges lands.
    pub(crate) fn walk_to(&self, gva: Gva, kind: AccessKind) -> Result<Walk, WalkError> {
        self.walk_by(&self.paging_registers(), gva, kind)
    }

    /// The same for one who has read the registers.
    fn walk_by(
        &self,
        registers: &Registers,
        gva: Gva,
        kind: AccessKind,
    ) -> Result<Walk, WalkError> {
        let access = Access { user: self.vcpu.cpl() == 3, ..Access::supervisor(kind) };
        let access = Access { ac: self.alignment_flag(), pkru: self.pkru(), ..access };
        self.memory.walk(registers, self.physical_bits, gva, access)
    }

    /// Where `access` to `gva` lands.
    pub(crate) fn walk_as(&self, gva: Gva, access: Access) -> Result<Walk, WalkError> {
        self.memory.walk(&self.paging_registers(), self.physical_bits, gva, access)
    }

    /// RIP as a linear address, and the size of the code there.
    #[inline]
    pub(crate) fn linear_rip(&self) -> (Gva, CodeSize) {
        let rip = self.vcpu.regs().rip;
        if rip >> 32 != 0 {
            return (Gva::new(rip), CodeSize::Bits64);
        }
        match CodeSize::of(&self.vcpu) {
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
