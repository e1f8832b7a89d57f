//! Says hello from a Hermit kernel.
#![no_std]
#![no_main]

use anchorite_hermit_guests::{check, entry, println, task};

entry!(run);

/// The first second of 2020: a clock that nobody set is before it.
const RECENT: u64 = 1_577_836_800;

fn run() -> bool {
    println!("hermit-hello: from a Hermit kernel under Anchorite");
    let frequency = anchorite_hermit_guests::hermit::syscalls::sys_get_processor_frequency();
    println!("hermit-hello: {frequency} MHz, {} s since 1970", task::unix_time().as_secs());
    check("the kernel knows the processor's frequency", frequency > 0)
        & check("the kernel was told the time", task::unix_time().as_secs() > RECENT)
}
