//! Hermit tasks beside the vCPU.
//!
//! Hermit is cooperative and sets its timer only for a task that sleeps. A guest
//! that never exits is therefore interrupted by a helper that sleeps and wakes:
//! its timer interrupt is the guest's exit.
//!
//! Helpers must have a higher priority than the vCPU's task: a task that Hermit
//! interrupted goes to the end of its queue, and helpers of equal priority starve.

#![expect(unsafe_code, reason = "Hermit's system calls take raw function pointers")]

use crate::clock;
use core::sync::atomic::{AtomicU64, Ordering};
use hermit::syscalls::{sys_set_current_task_priority, sys_spawn2, sys_usleep, sys_yield};

/// Hermit's normal priority; larger is more urgent.
const HELPER_PRIORITY: u8 = 2;
/// Below every helper.
const VCPU_PRIORITY: u8 = 1;
const HELPER_STACK_BYTES: usize = 32 << 10;
/// Hermit sleeps by timer from this length on, in its own microseconds; below it spins.
const SHORTEST_SLEEP: u64 = 10_000;

static HERMIT_MICROSECONDS: AtomicU64 = AtomicU64::new(SHORTEST_SLEEP);

/// Starts a helper task on this CPU.
pub(crate) fn spawn_helper(task: extern "C" fn(usize)) {
    // SAFETY: the function and its stack live as long as the machine.
    unsafe { sys_spawn2(task, 0, HELPER_PRIORITY, HELPER_STACK_BYTES, 0) };
}

/// Makes the calling task the vCPU's: helpers run before it from now on.
pub fn become_vcpu_task() {
    sys_set_current_task_priority(VCPU_PRIORITY);
    sys_yield();
}

/// Interrupts the guest every `microseconds`, or every 10 ms where that is longer
/// than Hermit can sleep. Call once, before [`become_vcpu_task`].
pub fn start_tick(microseconds: u64) {
    let sleep = clock::hermit_microseconds(microseconds).max(SHORTEST_SLEEP);
    HERMIT_MICROSECONDS.store(sleep, Ordering::Relaxed);
    spawn_helper(tick);
}

extern "C" fn tick(_argument: usize) {
    loop {
        sys_usleep(HERMIT_MICROSECONDS.load(Ordering::Relaxed));
    }
}

/// Waits for the next physical interrupt.
pub fn wait() {
    crate::instructions::wait_for_interrupt();
}
