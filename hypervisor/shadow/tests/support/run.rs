//! Running operation lists, and what happens when one of them fails.

use super::ops::{Op, Shape};
use super::reference::Mode;
use super::rng::Rng;
use super::shrink::shrink;
use super::world::{Coverage, Engine, Setup, Visible, World};
use anchorite_shadow::PolicyKind;
use std::cell::Cell;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

/// A run that can be repeated: everything follows from the setup, the tables and the list.
#[derive(Clone, Debug)]
pub struct Script {
    pub setup: Setup,
    pub initial: Vec<(u64, u64)>,
    pub ops: Vec<Op>,
}

/// A failure: after which operation, and what.
#[derive(Clone, Debug)]
pub struct Failure {
    pub step: usize,
    pub what: String,
}

/// The number in an environment variable.
pub fn env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` without a report for each panic in it.
fn quietly<T>(work: impl FnOnce() -> T) -> T {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                report(info);
            }
        }));
    });
    QUIET.set(true);
    let result = work();
    QUIET.set(false);
    result
}

/// Debug output with all numbers in hexadecimal, on one line.
fn hex(op: &Op) -> String {
    let text = format!("{op:#x?}");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Failure {
    /// The message without its numbers: shrinking must not slide to another defect.
    fn kind(&self) -> String {
        let words = self
            .what
            .split_whitespace()
            .filter(|word| !word.contains(|c: char| c.is_ascii_digit()));
        words.filter(|word| word.len() > 5).take(6).collect()
    }
}

impl Script {
    /// `count` operations from `seed`.
    pub fn random(setup: Setup, seed: u64, count: usize) -> Self {
        let mut shape = Shape::new(setup.mode, setup.vcpus);
        let mut rng = Rng::new(seed);
        shape.warm(&mut rng);
        let initial = shape.initial(&mut rng);
        let ops = (0..count).map(|_| shape.op(&mut rng)).collect();
        Self { setup, initial, ops }
    }

    /// A script from bytes: four choose the setup and the tables, every four more an
    /// operation, so that a fuzzer can cut and splice operations. At most 512 of them.
    pub fn from_bytes(data: &[u8]) -> Option<Self> {
        let (head, rest) = data.split_first_chunk::<4>()?;
        let modes = [Mode::Off, Mode::Bits32, Mode::Pae, Mode::Level4, Mode::Level5];
        let setup = Setup {
            mode: modes[head[0] as usize % 5],
            vcpus: 1 + head[1] as usize % 3,
            policy: PolicyKind::ALL[head[2] as usize % 6],
            spare: u32::from(head[3] & 31),
            prefetch: if head[3] & 32 == 0 { 0 } else { 7 },
            gib_pages: head[3] & 64 != 0,
            start_generation: 1,
            disciplined: false,
            audit_every: 1,
            physical_bits: 40,
        };
        let mut shape = Shape::new(setup.mode, setup.vcpus);
        let mut rng = Rng::new(u64::from(u32::from_le_bytes(*head)));
        shape.warm(&mut rng);
        let initial = shape.initial(&mut rng);
        let op = |bytes: &[u8]| {
            let seed = bytes.iter().fold(0, |seed, byte| seed << 8 | u64::from(*byte));
            shape.op(&mut Rng::new(seed))
        };
        let ops = rest.chunks(4).take(512).map(op).collect();
        Some(Self { setup, initial, ops })
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// The first step that is wrong; a panic counts.
    pub fn run<E: Engine>(&self) -> Result<(Vec<Visible>, World<E>), Failure> {
        let mut step = 0;
        let result = catch_unwind(AssertUnwindSafe(|| {
            let mut world = World::<E>::new(self.setup, &self.initial);
            let mut seen = Vec::with_capacity(self.ops.len());
            for op in &self.ops {
                seen.push(world.step(*op)?);
                step += 1;
            }
            world.audit()?;
            Ok((seen, world))
        }));
        match result {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(what)) => Err(Failure { step, what }),
            Err(payload) => {
                let text = payload
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string))
                    .unwrap_or_default();
                Err(Failure { step, what: format!("panic: {text}") })
            }
        }
    }

    /// Runs; on a failure shrinks it and panics with the shortest script as Rust source.
    pub fn check<E: Engine>(&self, reproduce: &str) -> Coverage {
        let failure = match self.run::<E>() {
            Ok((_, world)) => return world.coverage,
            Err(failure) => failure,
        };
        let (small, end) = quietly(|| {
            let small = self.shrunk::<E>(&failure);
            let end = small.run::<E>().err().unwrap_or_else(|| failure.clone());
            (small, end)
        });
        panic!(
            "step {}: {}\nreproduce: {reproduce}\nshrunk to {} operations, {} entries: {}\n{}",
            failure.step,
            failure.what,
            small.ops.len(),
            small.initial.len(),
            end.what,
            small.source()
        );
    }

    /// The shortest script that fails in the same way. `ANCHORITE_SHADOW_SHRINK=0` only cuts off
    /// what follows the failure: mutation testing asks whether a test fails, thousands of times.
    fn shrunk<E: Engine>(&self, failure: &Failure) -> Self {
        let mut small = self.clone();
        small.ops.truncate(failure.step + 1);
        if env("ANCHORITE_SHADOW_SHRINK", 1) == 0 {
            return small;
        }
        let same = |script: Self| {
            script.run::<E>().err().is_some_and(|other| other.kind() == failure.kind())
        };
        if !failure.what.starts_with("audit") {
            small.setup.audit_every = u64::MAX;
        }
        for _ in 0..2 {
            small.ops = shrink(small.ops.clone(), &Op::Nop, 4000, |ops| {
                same(Self { ops: ops.to_vec(), ..small.clone() })
            });
            small.initial = shrink(small.initial.clone(), &(0, 0), 1500, |initial| {
                same(Self { initial: initial.to_vec(), ..small.clone() })
            });
        }
        small
    }

    /// The script as a Rust expression.
    pub fn source(&self) -> String {
        let mut text = format!("Script {{\n  setup: {:?},\n  initial: vec![", self.setup);
        for (gpa, raw) in &self.initial {
            let _ = write!(text, "({gpa:#x}, {raw:#x}), ");
        }
        text.push_str("],\n  ops: vec![\n");
        for op in &self.ops {
            let _ = writeln!(text, "    Op::{},", hex(op));
        }
        text.push_str("  ],\n}");
        text
    }
}
