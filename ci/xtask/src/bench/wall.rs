//! `bench GUEST --wall`: how long a guest takes on plain QEMU, and under the image with nested and
//! with shadow paging, by the clock on the wall and by processor time.
//!
//! The ways take turns, so that what else the machine does meets all of them; what is compared is
//! one round's runs. Nothing is gated: time depends on the machine, counts do not.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::{Bench, succeeded};
use crate::cli::{BenchArgs, RunArgs};
use crate::cmdline::Mmu;
use crate::emulator::{self, Boot, Cpu, On};
use crate::error::{Error, Result};
use crate::guest::Guest;
use crate::matrix::Matrix;
use crate::progress;
use crate::run;
use crate::setup;
use crate::workspace::Workspace;

/// A run's limit in seconds.
const TIMEOUT_S: u32 = 1200;

/// Unit of the times in /proc/self/stat: Linux's USER_HZ, the same on every machine.
const TICKS_PER_S: f64 = 100.0;

/// The ways to run the guest; the others are set against the first.
const WAYS: [(&str, Mmu, bool); 3] = [
    ("plain QEMU", Mmu::Nested, true),
    ("nested", Mmu::Nested, false),
    ("shadow", Mmu::Shadow, false),
];

/// Seconds that a run took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Seconds {
    wall: f64,
    /// Of the emulator, in user and in system mode.
    processor: f64,
}

/// Runs the guest in every way as many times as asked for, and prints what came of it.
pub(super) fn wall(
    workspace: &Workspace,
    guest: &str,
    args: &BenchArgs,
    from: &Path,
) -> Result<()> {
    let found = Guest::find(guest, &Matrix::read()?, from)?;
    setup::ensure(workspace, run::needs(On::Qemu, Boot::Direct))?;
    run::build(workspace, &found, false)?;
    let mut rounds = Vec::new();
    let bar = progress::bar(WAYS.len() * args.rounds as usize);
    for _ in 0..args.rounds {
        let mut round = [Seconds::default(); WAYS.len()];
        for (seconds, (_, mmu, bare)) in round.iter_mut().zip(WAYS) {
            *seconds = timed(&arguments(guest, args, mmu, bare), &found, from)?;
            bar.inc(1);
        }
        rounds.push(round);
    }
    bar.finish_and_clear();
    print!("{}", table(guest, &rounds));
    Ok(())
}

fn arguments(guest: &str, args: &BenchArgs, mmu: Mmu, bare: bool) -> RunArgs {
    let bench = Bench {
        append: args.append.clone(),
        zap: args.zap.clone(),
        shadow_pages: args.shadow_pages,
        ..Bench::bundled(guest, mmu, bare)
    };
    let mut run =
        RunArgs { icount: false, json: None, timeout: Some(TIMEOUT_S), ..bench.arguments() };
    run.guest.mem = args.mem;
    run
}

fn timed(args: &RunArgs, guest: &Guest, from: &Path) -> Result<Seconds> {
    let machine = run::machine(args, guest, (Cpu::Amd, On::Qemu), from)?;
    let before = processor_time()?;
    let outcome = emulator::run(&machine, |_| (), |_| ())?;
    let processor = processor_time()?.saturating_sub(before);
    run::tidy(&machine.scratch);
    succeeded(&outcome.verdict)?;
    Ok(Seconds { wall: outcome.elapsed.as_secs_f64(), processor: processor.as_secs_f64() })
}

/// What children that have ended used of the processors so far.
fn processor_time() -> Result<Duration> {
    const STAT: &str = "/proc/self/stat";
    let text = fs::read_to_string(STAT).map_err(Error::io(STAT))?;
    children_of(&text).ok_or_else(|| Error::malformed(STAT, "it lacks the children's times"))
}

/// Fields 16 and 17 (proc(5)): cutime and cstime. The second field may hold blanks, and ends with
/// the last parenthesis.
fn children_of(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(13);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(Duration::from_secs_f64((f64::from(user) + f64::from(system)) / TICKS_PER_S))
}

/// Medians with the least and the greatest, and medians of each round's ratios.
fn table(guest: &str, rounds: &[[Seconds; WAYS.len()]]) -> String {
    let mut text = format!(
        "{guest}, {} rounds in turns; median (least to greatest)\n\n\
         | | wall, s | against plain QEMU | processor, s | against plain QEMU |\n\
         |---|---:|---:|---:|---:|\n",
        rounds.len()
    );
    for (way, (name, ..)) in WAYS.iter().enumerate() {
        let column = |pick: fn(&Seconds) -> f64| {
            let seconds = spread(rounds.iter().map(|round| pick(&round[way])), 2);
            let ratio = spread(rounds.iter().map(|round| pick(&round[way]) / pick(&round[0])), 3);
            format!("{seconds} | {ratio}")
        };
        let (wall, processor) = (column(|it| it.wall), column(|it| it.processor));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {name} | {wall} | {processor} |");
    }
    text
}

fn spread(values: impl Iterator<Item = f64>, digits: usize) -> String {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let median = match values.as_slice() {
        [] => return String::new(),
        even if even.len() % 2 == 0 => even[middle - 1].midpoint(even[middle]),
        odd => odd[middle],
    };
    let (least, greatest) = (values[0], values[values.len() - 1]);
    format!("{median:.digits$} ({least:.digits$} to {greatest:.digits$})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_of_one_rounds_runs() {
        let seconds = |wall| Seconds { wall, processor: wall / 2.0 };
        let quiet = [1.0, 1.1, 1.2].map(seconds);
        let busy = [10.0, 11.0, 12.0].map(seconds);
        let text = table("linux", &[quiet, busy]);
        assert!(
            text.contains("| shadow | 6.60 (1.20 to 12.00) | 1.200 (1.200 to 1.200) |"),
            "{text}"
        );
        assert!(
            text.contains("| plain QEMU | 5.50 (1.00 to 10.00) | 1.000 (1.000 to 1.000) | 2.75")
        );
    }

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(spread([3.0, 1.0, 2.0].into_iter(), 1), "2.0 (1.0 to 3.0)");
        assert_eq!(spread(std::iter::empty(), 1), "");
    }

    #[test]
    fn processor_time_is_read_behind_a_name_with_blanks() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 250 50 20 0";
        assert_eq!(children_of(stat), Some(Duration::from_secs(3)));
        assert_eq!(children_of("7 (a) S 1"), None);
    }
}
