//! The host as the machine sees it.

#![expect(unsafe_code, reason = "CPUID")]

use crate::console::{self, Console};
use crate::memory::GuestRam;
use crate::timer::Timer;
use crate::{clock, tasks};
use anchorite_vmm::cpuid::Leaf;
use anchorite_vmm::host::Host;
use core::num::NonZeroU64;

/// How often the guest is interrupted, at least.
const TICK_MICROSECONDS: u64 = 10_000;

/// The host: Hermit's clock and tasks, COM1 as console.
#[derive(Debug, Default)]
pub struct HermitHost {
    console: Console,
    timer: Timer,
    /// Ticks of the TSC between two interrupts that come anyhow.
    tick: u64,
}

impl HermitHost {
    /// The host of the one machine; call in the task that will run it, once.
    ///
    /// From here on the task has the vCPU's low priority, and a tick interrupts it.
    pub fn start() -> Self {
        console::start_input();
        tasks::start_tick(TICK_MICROSECONDS);
        tasks::become_vcpu_task();
        Self {
            console: Console::new(),
            timer: Timer::default(),
            tick: clock::ticks_per_second() / 1_000_000 * TICK_MICROSECONDS,
        }
    }

    /// The console, for the hypervisor's own text.
    pub const fn console(&mut self) -> &mut Console {
        &mut self.console
    }
}

impl Host for HermitHost {
    type Memory = GuestRam;

    #[inline]
    fn ticks(&self) -> u64 {
        clock::now()
    }

    fn hertz(&self) -> NonZeroU64 {
        NonZeroU64::new(clock::ticks_per_second()).unwrap_or(NonZeroU64::MIN)
    }

    fn cpuid(&self, leaf: u32, subleaf: u32) -> Leaf {
        // SAFETY: every 64-bit CPU has CPUID; an unknown leaf gives some value.
        let result = unsafe { core::arch::x86_64::__cpuid_count(leaf, subleaf) };
        Leaf { eax: result.eax, ebx: result.ebx, ecx: result.ecx, edx: result.edx }
    }

    fn console_write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.console.put(byte));
    }

    fn console_read(&mut self) -> Option<u8> {
        console::take_input()
    }

    /// The tick comes every 10 ms anyhow, which is Hermit's shortest sleep.
    fn wake_at(&mut self, at: u64) {
        if at < clock::now().saturating_add(self.tick) {
            self.timer.fire_at(at);
        }
    }

    fn idle(&mut self, until: u64) {
        self.console.flush();
        // An interrupt between the look at the clock and the sleep would be missed.
        x86_64::instructions::interrupts::disable();
        if clock::now() < until {
            self.wake_at(until);
            tasks::wait();
        } else {
            x86_64::instructions::interrupts::enable();
        }
    }
}
