//! One script, one run: nothing may depend on hash seeds, addresses, threads or time. A run
//! under an instruction count is repeated to the byte, and a printed seed fails again.

#[allow(dead_code, unreachable_pub, reason = "each test program uses a part")]
mod support;

use anchorite_shadow::{AnyMmu, PolicyKind, ShadowMmu};
use std::fmt::Write as _;
use std::process::Command;
use support::machine::Machine;
use support::reference::Mode;
use support::run::Script;
use support::world::Setup;

/// Set in the child that only prints what it saw.
const CHILD: &str = "ANCHORITE_SHADOW_PRINT_RUNS";

/// All that a run leaves behind: what the guest saw, its memory, the shadow tables with
/// their links, the frames and the counters.
fn traces() -> String {
    let mut text = String::new();
    for mode in [Mode::Off, Mode::Bits32, Mode::Pae, Mode::Level4, Mode::Level5] {
        for (number, policy) in PolicyKind::ALL.into_iter().enumerate() {
            let setup = Setup {
                mode,
                vcpus: 1 + number % 3,
                policy,
                spare: [0, 24][number % 2],
                prefetch: 7,
                gib_pages: true,
                start_generation: 1,
                disciplined: false,
                audit_every: 1,
                physical_bits: 40,
            };
            let script = Script::random(setup, 77 + number as u64, 1500);
            let (seen, world) = match script.run::<AnyMmu<Machine>>() {
                Ok(done) => done,
                Err(failure) => panic!("{mode:?} {policy:?}: {failure:?}"),
            };
            let (usage, stats) = (world.mmu.usage(), world.mmu.stats());
            let memory = world.memory_digest();
            let tables = world.mmu.machine().tables_digest();
            let _ = writeln!(
                text,
                "{mode:?} {policy:?} {seen:?} {memory:x} {tables:x} {usage:?} {stats:?}"
            );
        }
    }
    text
}

#[test]
fn a_script_runs_the_same_twice_in_one_process() {
    let first = traces();
    let _elsewhere_in_the_heap: Vec<_> = (1..200).map(|size| vec![0u8; size * 61]).collect();
    let second = std::thread::spawn(traces).join().expect("the run ends");
    assert!(first == second, "two runs of one script differ");
}

#[test]
fn a_script_runs_the_same_in_two_processes() {
    if std::env::var_os(CHILD).is_some() {
        println!("{}", traces());
        return;
    }
    let program = std::env::current_exe().expect("this program has a path");
    let child = || {
        let output = Command::new(&program)
            .args(["--exact", "a_script_runs_the_same_in_two_processes", "--nocapture"])
            .env(CHILD, "1")
            .output()
            .expect("this program runs again");
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("text");
        // The test runner's own lines end in a time.
        text.lines().filter(|line| line.contains("Stats {")).map(str::to_owned).collect::<Vec<_>>()
    };
    let first = child();
    assert_eq!(first.len(), 30, "each mode under each policy");
    assert!(first == child(), "two processes ran one script differently");
}
