//! The engine's operations, to be counted by callgrind: `cargo xtask bench engine`.
//!
//! Every operation is carried out inside [`counted`], which callgrind is told to collect, and
//! [`dump`] ends a section, after which a line on standard output says what it was:
//! `section NAME TABLES LEAVES COUNT`. `difference` means: without what the section before
//! cost.
//!
//! Arguments: a policy, and what to measure: `operations`; `largest`, zap-alls of up to a million
//! pages, which take a while to make; or `distribution`, tables, and shadow pages, which counts
//! each fault after a zap-all by itself (`cargo xtask bench policies`).

mod cases;
mod distribution;
mod guest;
mod lookups;
mod machine;
mod store;

// The directory and what it is made of, to be measured by itself: they are no part of the
// crate's interface.
#[path = "../../src/directory.rs"]
#[allow(dead_code, unused_imports, reason = "a part is measured")]
mod directory;
#[path = "../../src/page.rs"]
#[allow(dead_code, unreachable_pub, reason = "a part is measured")]
mod page;
#[path = "../../src/registers.rs"]
#[allow(dead_code, unreachable_pub, reason = "a part is measured")]
mod registers;
#[path = "../../src/role.rs"]
#[allow(dead_code, unreachable_pub, reason = "a part is measured")]
mod role;

use std::hint::black_box;
use std::process::ExitCode;

use anchorite_shadow::PolicyKind;
use anchorite_shadow::policy::{Linked, Tagged, ZapPolicy};

/// What callgrind collects.
#[inline(never)]
fn counted<R>(operation: impl FnOnce() -> R) -> R {
    black_box(operation())
}

/// Callgrind writes what it has collected when this is called.
#[inline(never)]
fn dump() {
    black_box(());
}

/// Ends a section.
fn section(name: &str, tables: u64, leaves: u64, count: u64) {
    dump();
    println!("section {name} {tables} {leaves} {count}");
}

/// Ends a section that is to be compared with the one before.
fn difference(name: &str, tables: u64, leaves: u64, count: u64) {
    dump();
    println!("difference {name} {tables} {leaves} {count}");
}

fn run<P: ZapPolicy>(policy: P, words: &[String]) -> Option<()> {
    match words {
        [what] if what == "operations" => cases::all(policy),
        [what] if what == "largest" => cases::largest(policy),
        [what, tables, pages] if what == "distribution" => {
            distribution::measure(policy, tables.parse().ok()?, pages.parse().ok()?);
        }
        _ => return None,
    }
    Some(())
}

fn main() -> ExitCode {
    // Cargo adds the option to whatever it starts as a benchmark.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let done = words.split_first().and_then(|(policy, rest)| {
        let kind = PolicyKind::from_name(policy)?;
        match Linked::of(kind) {
            Some(policy) => run(policy, rest),
            None => run(Tagged, rest),
        }
    });
    if done.is_none() {
        eprintln!(
            "give a policy, and `operations`, `largest`, or `distribution`, tables and pages"
        );
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
