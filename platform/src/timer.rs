//! The local APIC's timer, which is Hermit's, made to fire earlier.
//!
//! Hermit keeps the timer set for the task that wakes next, which is the tick of
//! [`crate::tasks`], and sets it anew whenever it has fired. So the timer may be set
//! to an earlier time than Hermit's, never to a later one, and is asked for again
//! after every interrupt. Both of Hermit's modes are known here: TSC deadline where
//! the CPU has it, else one shot, whose rate is measured when it is first needed.
//!
//! Source: SDM vol. 3, 10.5.4 "APIC Timer", 10.4.1 "The Local APIC Block Diagram",
//! 10.12.1.2 "x2APIC Register Address Space".

#![expect(unsafe_code, reason = "registers of the local APIC")]

use crate::clock;
use crate::instructions::{rdmsr, wrmsr};
use crate::memory::direct_map;
use volatile::VolatilePtr;

const IA32_APIC_BASE: u32 = 0x1b;
/// The registers are MSRs.
const X2APIC: u64 = 1 << 10;
const BASE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const IA32_TSC_DEADLINE: u32 = 0x6e0;
const X2APIC_MSRS: u32 = 0x800;

/// Registers by their number: 16 bytes apart in memory, 1 apart as MSRs.
const LVT_TIMER: u32 = 0x32;
const INITIAL_COUNT: u32 = 0x38;
const CURRENT_COUNT: u32 = 0x39;
/// LVT bits 18 and 17: the timer's mode.
const MODE: u32 = 3 << 17;
const TSC_DEADLINE: u32 = 2 << 17;
const MASKED: u32 = 1 << 16;

/// Counts over which the rate is measured: to a quarter of a per mille.
const MEASURED_COUNTS: u32 = 4096;
/// Most ticks of the TSC a measurement may take; a timer that does not count by then
/// will not.
const PATIENCE: u64 = 10_000_000;

/// The timer of the CPU that uses it.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    /// Counts of the timer in 2^32 ticks of the TSC; `None` before the measurement.
    rate: Option<u64>,
}

impl Timer {
    /// Makes the timer fire when the TSC stands at `at`, unless it fires before.
    pub(crate) fn fire_at(&mut self, at: u64) {
        x86_64::instructions::interrupts::without_interrupts(|| self.set(at));
    }

    fn set(&mut self, at: u64) {
        let lvt = read(LVT_TIMER);
        if lvt & MASKED != 0 {
            return;
        }
        if lvt & MODE == TSC_DEADLINE {
            let armed = rdmsr(IA32_TSC_DEADLINE);
            if armed != 0 && at < armed {
                // SAFETY: the timer's interrupt is Hermit's, which finds nothing due.
                unsafe { wrmsr(IA32_TSC_DEADLINE, at.max(1)) };
            }
            return;
        }
        self.set_count(at);
    }

    fn set_count(&mut self, at: u64) {
        self.rate = self.rate.or_else(measure);
        let Some(rate) = self.rate else { return };
        let ticks = at.saturating_sub(clock::now());
        let counts = (u128::from(ticks) * u128::from(rate) >> 32).max(1);
        let left = read(CURRENT_COUNT);
        // A timer at 0 has fired already: its interrupt is about to come.
        if left != 0 && counts < u128::from(left) {
            write(INITIAL_COUNT, counts as u32);
        }
    }
}

/// Counts in 2^32 ticks of the TSC, from the timer as it runs; `None` where it is too
/// near its end, or does not run.
fn measure() -> Option<u64> {
    let (start, first) = (clock::now(), read(CURRENT_COUNT));
    loop {
        let (now, count) = (clock::now(), read(CURRENT_COUNT));
        let (ticks, counts) = (now - start, first.saturating_sub(count));
        if count == 0 || ticks > PATIENCE {
            return None;
        }
        if counts >= MEASURED_COUNTS {
            return (u64::from(counts) << 32).checked_div(ticks);
        }
    }
}

fn read(register: u32) -> u32 {
    let base = rdmsr(IA32_APIC_BASE);
    if base & X2APIC != 0 {
        return rdmsr(X2APIC_MSRS + register) as u32;
    }
    register_pointer(base, register).read()
}

fn write(register: u32, value: u32) {
    let base = rdmsr(IA32_APIC_BASE);
    if base & X2APIC != 0 {
        // SAFETY: a timer register; its interrupt has a handler.
        return unsafe { wrmsr(X2APIC_MSRS + register, value.into()) };
    }
    register_pointer(base, register).write(value);
}

fn register_pointer(base: u64, register: u32) -> VolatilePtr<'static, u32> {
    let at = (base & BASE_ADDRESS) + u64::from(register) * 16;
    // SAFETY: the direct map covers the APIC's page, which nothing but registers is in.
    unsafe { VolatilePtr::new(direct_map::pointer(at).cast()) }
}
