//! Tasks and time.

#![expect(unsafe_code, reason = "calls the kernel's C interface")]

use core::time::Duration;
use hermit::syscalls::{sys_clock_gettime, sys_join, sys_spawn2, sys_usleep};
use hermit::time::timespec;

/// A task that was started.
#[derive(Debug)]
pub struct Task(i32);

/// Starts `body` with `argument` as a task of its own.
pub fn spawn(body: extern "C" fn(usize), argument: usize) -> Task {
    const NORMAL_PRIORITY: u8 = 2;
    const STACK_BYTES: usize = 64 << 10;
    const ANY_CORE: isize = -1;
    // SAFETY: `body` is a safe function of the type the kernel calls, and takes any argument.
    Task(unsafe { sys_spawn2(body, argument, NORMAL_PRIORITY, STACK_BYTES, ANY_CORE) })
}

impl Task {
    /// Waits for its end; `false` where there was no such task.
    pub fn join(self) -> bool {
        sys_join(self.0) == 0
    }
}

/// Blocks this task; the others run.
pub fn sleep(time: Duration) {
    sys_usleep(time.as_micros() as u64);
}

/// The monotonic clock.
pub fn now() -> Duration {
    since_epoch(4)
}

/// The time since 1970.
pub fn unix_time() -> Duration {
    since_epoch(1)
}

/// The clock with one of the kernel's numbers.
fn since_epoch(clock: i32) -> Duration {
    let mut time = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for a write of its type.
    unsafe { sys_clock_gettime(clock, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
