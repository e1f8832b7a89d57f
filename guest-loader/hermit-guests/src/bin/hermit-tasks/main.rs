//! Allocates, spawns tasks that sleep, and joins them.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use anchorite_hermit_guests::{check, entry, println, task};
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;

entry!(run);

const TASKS: usize = 5;
/// Long enough for the kernel to block a task rather than to spin.
const NAP: Duration = Duration::from_millis(20);

static ASLEEP: AtomicUsize = AtomicUsize::new(0);
static MOST_ASLEEP: AtomicUsize = AtomicUsize::new(0);
static SUM: AtomicUsize = AtomicUsize::new(0);

fn run() -> bool {
    let good = memory() & sleeps() & tasks();
    println!("hermit-tasks: {}", if good { "all is well" } else { "something failed" });
    good
}

/// Blocks of all sizes, held at the same time and given back in another order.
fn memory() -> bool {
    const ROUNDS: usize = 20;
    let mut good = true;
    for round in 0..ROUNDS {
        let mut blocks = BTreeMap::new();
        for index in 0..64usize {
            let bytes = 1 + (index * 7919 + round * 104_729) % 40_000;
            blocks.insert((index * 37) % 64, alloc::vec![(index ^ round) as u8; bytes]);
        }
        let whole = |(key, block): (&usize, &Vec<u8>)| {
            // 37 · 45 = 1 mod 64.
            let index = key * 45 % 64;
            block.iter().all(|&byte| byte == (index ^ round) as u8)
        };
        good &= blocks.iter().all(whole);
        blocks.retain(|key, _| key % 3 != 0);
        good &= blocks.iter().all(whole);
    }
    let large: Vec<u32> = (0..1 << 20).collect();
    good &= large.iter().enumerate().all(|(index, &value)| index as u32 == value);
    println!("hermit-tasks: memory done");
    check("memory keeps what is written to it", good)
}

/// A sleep takes as long as it is told to, at least.
fn sleeps() -> bool {
    let begun = task::now();
    for _ in 0..3 {
        task::sleep(NAP);
    }
    let slept = task::now() - begun;
    println!("hermit-tasks: slept {} ms", slept.as_millis());
    check("three naps take three times a nap", slept >= 3 * NAP)
}

/// Tasks sleep beside each other, and all of them end.
fn tasks() -> bool {
    let tasks: Vec<_> = (0..TASKS).map(|number| task::spawn(napper, number)).collect();
    let joined = tasks.into_iter().all(task::Task::join);
    let most = MOST_ASLEEP.load(Ordering::SeqCst);
    println!("hermit-tasks: {TASKS} tasks, {most} asleep at a time");
    check("every task can be joined", joined)
        & check("every task has run", SUM.load(Ordering::SeqCst) == TASKS * (TASKS + 1) / 2)
        & check("all tasks slept at the same time", most == TASKS)
        & check("none is left asleep", ASLEEP.load(Ordering::SeqCst) == 0)
}

extern "C" fn napper(number: usize) {
    let asleep = ASLEEP.fetch_add(1, Ordering::SeqCst) + 1;
    MOST_ASLEEP.fetch_max(asleep, Ordering::SeqCst);
    // The last to fall asleep is the first to wake.
    task::sleep(NAP * (TASKS - number) as u32);
    ASLEEP.fetch_sub(1, Ordering::SeqCst);
    SUM.fetch_add(number + 1, Ordering::SeqCst);
}
