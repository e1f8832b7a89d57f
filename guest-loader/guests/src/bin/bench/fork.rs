//! A storm of forks: an address space is copied with all pages write-protected on both
//! sides, the child writes some of them, page by page, and is gone.

use core::sync::atomic::{AtomicU64, Ordering};

use anchorite_guests::instructions::{invlpg, read_cr2};
use anchorite_guests::trap::{self, TrapFrame, vector};

use crate::frames::{Frames, PAGE, load, store};
use crate::give_up;
use crate::section::Bench;
use crate::tables::{A, AD, PT_SPAN, PW, Shape, Space, TEST, W, load_root};

/// PT pages of a process, and pages in each.
const PROCESS: Shape = Shape::new(4, 64);
const FORKS: u64 = 32;
/// Pages that the child and the parent write after a fork.
const CHILD_WRITES: u64 = 32;
const PARENT_WRITES: u64 = 8;

/// The PT pages of the process that runs, for the handler of #PF.
static TABLES: [AtomicU64; PROCESS.tables as usize] =
    [const { AtomicU64::new(0) }; PROCESS.tables as usize];
/// The next data page for a copy.
static NEXT_COPY: AtomicU64 = AtomicU64::new(0);

pub(crate) fn run(bench: &mut Bench) {
    let parent = bench.space;
    parent.map_shape(&mut bench.frames, TEST, PROCESS, PW | AD);
    crate::tables::touch(TEST, PROCESS);
    trap::set_handler(vector::PAGE_FAULT, Some(copy_on_write));
    let mark = bench.frames.mark();
    let copies = bench.frames.data(PROCESS.pages());
    let mut frames = bench.frames.clone();
    bench.section(
        ("fork", PROCESS, FORKS),
        |_| (),
        || {
            for number in 0..FORKS {
                NEXT_COPY.store(copies, Ordering::Relaxed);
                fork(&mut frames, parent, number);
                frames.rewind(mark);
            }
        },
    );
    bench.frames = frames;
    trap::set_handler(vector::PAGE_FAULT, None);
    if load(TEST) != FORKS - 1 {
        give_up("a fork's pages are wrong", 4);
    }
}

/// One fork, to the child's end.
fn fork(frames: &mut Frames, parent: Space, number: u64) {
    let child = parent.twin(frames);
    child.empty_test_region();
    let mut of_parent = [0; PROCESS.tables as usize];
    let mut of_child = of_parent;
    for table in 0..PROCESS.tables {
        let address = TEST + table * PT_SPAN;
        let from = parent.entry(frames, address, PW | A);
        let to = child.entry(frames, address, PW | A);
        (of_parent[table as usize], of_child[table as usize]) = (from, to);
        for leaf in 0..PROCESS.leaves {
            let shared = load(from + leaf * 8) & !W;
            store(from + leaf * 8, shared);
            store(to + leaf * 8, shared);
        }
    }
    run_as(child, &of_child, CHILD_WRITES, number + 1000);
    run_as(parent, &of_parent, PARENT_WRITES, number);
}

/// Enters a process and lets it write one word to each of its first pages.
fn run_as(space: Space, tables: &[u64; PROCESS.tables as usize], writes: u64, value: u64) {
    for (shared, &table) in TABLES.iter().zip(tables) {
        shared.store(table, Ordering::Relaxed);
    }
    load_root(space.root);
    for page in 0..writes {
        let (table, leaf) = (page % PROCESS.tables, page / PROCESS.tables);
        store(TEST + table * PT_SPAN + leaf * PAGE, value);
    }
}

/// Gives the writer a page of its own.
fn copy_on_write(frame: &mut TrapFrame) {
    let offset = read_cr2().wrapping_sub(TEST);
    let (table, leaf) = (offset / PT_SPAN, offset % PT_SPAN / PAGE);
    let Some(entries) = TABLES.get(table as usize).filter(|_| frame.error & W != 0) else {
        give_up("a page fault that is no write", 5);
    };
    let entry = entries.load(Ordering::Relaxed) + leaf * 8;
    let copy = NEXT_COPY.fetch_add(PAGE, Ordering::Relaxed);
    copy_page(TEST + offset / PAGE * PAGE, copy);
    store(entry, copy | PW | AD);
    invlpg(TEST + offset);
}

fn copy_page(from: u64, to: u64) {
    // SAFETY: `from` is the mapped page that faulted, `to` a data page of nobody else.
    unsafe {
        core::arch::asm!("rep movsq", inout("rsi") from => _, inout("rdi") to => _,
            inout("rcx") 512u64 => _, options(nostack, preserves_flags));
    }
}
