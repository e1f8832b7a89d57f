//! XSAVE's memory image lies where CPUID says, ends where it says, and brings every state back.
//!
//! Source: SDM vol. 1, 13.4 "XSAVE Area"; 13.7 "Operation of XSAVE"; 13.8 "Operation of XRSTOR";
//! 13.10 "Operation of XSAVEC".

use anchorite_guests::Report;
use anchorite_guests::instructions::cpuid;
use core::arch::asm;

/// More than any area.
const BYTES: usize = 4096;
/// What lies in memory before.
const UNTOUCHED: u8 = 0xa5;
/// PKRU's state, of whose eight bytes only half the register fills.
const PKRU: u32 = 9;
const PKRU_BYTES: usize = 4;
/// The header: XSTATE_BV and XCOMP_BV.
const STATE_BV: usize = 512;
const COMPACT_BV: usize = 520;
const COMPACTED: u64 = 1 << 63;
const EXTENDED: usize = 576;
/// In ECX of a state's subleaf: in the compacted format it starts at a multiple of 64.
const ALIGNED: u32 = 1 << 1;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Area([u8; BYTES]);

impl Area {
    const BEFORE: Self = Self([UNTOUCHED; BYTES]);
    const ZEROES: Self = Self([0; BYTES]);

    fn word(&self, at: usize) -> u64 {
        u64::from_le_bytes(core::array::from_fn(|byte| self.0[at + byte]))
    }

    fn set_word(&mut self, at: usize, value: u64) {
        self.0[at..][..8].copy_from_slice(&value.to_le_bytes());
    }

    /// The first byte behind the last that was written.
    fn end(&self) -> usize {
        self.0.iter().rposition(|&byte| byte != UNTOUCHED).map_or(0, |last| last + 1)
    }

    fn xsave(&mut self, states: u64) {
        let (low, high) = (states as u32, (states >> 32) as u32);
        // SAFETY: CR4.OSXSAVE is set, the area is aligned and larger than any.
        unsafe { asm!("xsave64 [{}]", in(reg) self, in("eax") low, in("edx") high) };
    }

    fn xsavec(&mut self, states: u64) {
        let (low, high) = (states as u32, (states >> 32) as u32);
        // SAFETY: as above, and CPUID shows XSAVEC.
        unsafe { asm!("xsavec64 [{}]", in(reg) self, in("eax") low, in("edx") high) };
    }

    /// # Safety
    /// The header is one that XSAVE or XSAVEC writes, and MXCSR is valid.
    unsafe fn xrstor(&self, states: u64) {
        let (low, high) = (states as u32, (states >> 32) as u32);
        // SAFETY: as above, and this guest keeps nothing in these registers.
        unsafe { asm!("xrstor64 [{}]", in(reg) self, in("eax") low, in("edx") high) };
    }
}

/// What fills a state's registers: no byte is like its neighbour, or the same in another state.
/// As PKRU it leaves key 0 alone.
fn pattern(state: u32) -> impl Iterator<Item = u8> {
    (0..register_bytes(state)).map(move |at| (at * 7 + 0x10) as u8 ^ (state << 5) as u8)
}

/// Bytes of a state that registers fill.
fn register_bytes(state: u32) -> usize {
    if state == PKRU { PKRU_BYTES } else { cpuid(0xd, state).eax as usize }
}

/// The bits of `states` beyond the legacy region.
fn extended(states: u64) -> impl Iterator<Item = u32> {
    (2..63).filter(move |state| states >> state & 1 == 1)
}

/// Checks with all of `states` enabled in XCR0.
pub(crate) fn areas(report: &mut Report, states: u64) {
    for state in extended(states) {
        report.check(format_args!("state {state} has a size"), cpuid(0xd, state).eax != 0);
    }
    let full = standard(report, states);
    if cpuid(0xd, 1).eax & 1 << 1 == 0 {
        return report.skip("XSAVEC", "CPUID does not show it");
    }
    compacted(report, states, &full);
}

/// XSAVE and XRSTOR; returns the area with every register filled.
fn standard(report: &mut Report, states: u64) -> Area {
    let mut area = Area::BEFORE;
    area.set_word(STATE_BV, 0);
    area.xsave(states);
    let bytes = cpuid(0xd, 0).ebx as usize;
    report.check(format_args!("XSAVE ends at {} of {bytes}", area.end()), area.end() <= bytes);

    let mut full = Area::ZEROES;
    full.0[..512].copy_from_slice(&area.0[..512]);
    full.set_word(STATE_BV, states);
    for state in extended(states) {
        let part = &mut full.0[cpuid(0xd, state).ebx as usize..];
        part.iter_mut().zip(pattern(state)).for_each(|(to, from)| *to = from);
    }
    let mut back = Area::ZEROES;
    // SAFETY: MXCSR is from XSAVE, the header names states that XCR0 has.
    unsafe { full.xrstor(states) };
    back.xsave(states);
    same(report, "what XRSTOR loaded", &back, &full, states);
    full
}

/// XSAVEC and XRSTOR of what it wrote, with the registers as in `full`.
fn compacted(report: &mut Report, states: u64, full: &Area) {
    let mut area = Area::BEFORE;
    // SAFETY: as in `standard`.
    unsafe { full.xrstor(states) };
    area.xsavec(states);
    let bytes = cpuid(0xd, 1).ebx as usize;
    report.check(format_args!("XSAVEC ends at {} of {bytes}", area.end()), area.end() <= bytes);
    report.equal("XCOMP_BV", area.word(COMPACT_BV), COMPACTED | states);
    let mut at = EXTENDED;
    for state in extended(states) {
        let leaf = cpuid(0xd, state);
        at = if leaf.ecx & ALIGNED != 0 { at.next_multiple_of(64) } else { at };
        let found = area.0[at..][..register_bytes(state)].iter().copied();
        let as_filled = found.eq(pattern(state));
        report.check(format_args!("state {state}, compacted, at {at}"), as_filled);
        at += leaf.eax as usize;
    }

    let mut back = Area::ZEROES;
    // SAFETY: an empty header initializes all registers, MXCSR is valid; then what XSAVEC wrote.
    unsafe {
        let mut empty = *full;
        empty.set_word(STATE_BV, 0);
        empty.xrstor(states);
        area.0[STATE_BV + 16..EXTENDED].fill(0);
        area.xrstor(states);
        back.xsave(states);
        empty.xrstor(states);
    }
    same(report, "what XRSTOR loaded from XSAVEC", &back, full, states);
}

/// Whether two areas in the standard format hold the same registers beyond the legacy ones.
fn same(report: &mut Report, what: &str, one: &Area, other: &Area, states: u64) {
    for state in extended(states) {
        let at = cpuid(0xd, state).ebx as usize;
        let part = at..at + register_bytes(state);
        let equal = one.0[part.clone()] == other.0[part];
        report.check(format_args!("state {state} in {what}"), equal);
    }
}
