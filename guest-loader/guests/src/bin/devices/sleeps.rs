//! Sleeping until a timer interrupts, many times, after work that keeps interrupts out for a
//! random while: each sleep must end. Where an interrupt is lost on its way the guest, and
//! the host below it, sleep for good.

use anchorite_guests::instructions::{cli, cpuid, sti, wait_for_interrupt};
use anchorite_guests::random::Random;
use anchorite_guests::{Report, println};

use crate::{pic, taken, timer};

/// Counts of a period at least; at most as much again is added.
const PERIOD: u64 = 200;
/// Sleeps of one period.
const SLEEPS_OF_PERIOD: u32 = 50;
/// Exits to a hypervisor at most between two sleeps, with interrupts off and then on.
const MOST_EXITS: u64 = 64;

/// Sleeps as often as `number` says.
pub(crate) fn check(report: &mut Report, number: &str) {
    let Ok(number) = number.parse::<u32>() else {
        return report.check(format_args!("sleeps={number} is a number"), false);
    };
    let present = pic::is_there() && timer::is_there();
    report.check("there are interrupts and a timer to sleep by", present);
    if present {
        sleep(report, number);
    }
}

fn sleep(report: &mut Report, number: u32) {
    let mut random = Random::new(1);
    pic::program(1);
    timer::count_interrupts();
    for sleep in 0..number {
        if sleep % SLEEPS_OF_PERIOD == 0 {
            timer::set(0, 2, (PERIOD + random.below(PERIOD)) as u16);
        }
        cli();
        exit_some_times(&mut random);
        if random.one_in(2) {
            sti();
            exit_some_times(&mut random);
            cli();
        }
        let before = taken();
        wait_for_interrupt();
        cli();
        report.check("a sleep ends by an interrupt", taken() > before);
    }
    timer::stop();
    println!("devices: {number} sleeps, {} interrupts", taken());
}

fn exit_some_times(random: &mut Random) {
    for _ in 0..random.below(MOST_EXITS) {
        cpuid(0, 0);
    }
}
