//! Reads a file by uhyve's hypercalls: its module.
#![no_std]
#![no_main]

use anchorite_hermit_guests::file::{File, unlink};
use anchorite_hermit_guests::{check, entry, println};
use core::ffi::CStr;

entry!(run);

const PATH: &CStr = c"/root/text.txt";
/// What the file holds.
const TEXT: &[u8] = include_bytes!("modules/text.txt");
/// `O_WRONLY` and `O_CREAT` of Hermit.
const WRITE_ONLY: i32 = 1;
const CREATE: i32 = 0o100;

fn run() -> bool {
    let Ok(file) = File::open(PATH, 0) else { return check("the file can be opened", false) };
    let whole = file.read_to_end();
    println!("hermit-file: {:?} bytes", whole.as_deref().map(<[u8]>::len));
    let good = check("the file holds what it should", whole.as_deref() == Ok(TEXT))
        & check("at its end nothing is left", file.read(&mut [0; 4]) == Ok(0))
        & check("seeking goes to a place", file.seek(7))
        & check("and reading goes on there", file.read_to_end().as_deref() == Ok(&TEXT[7..]));
    good & refusals()
}

fn refusals() -> bool {
    check("a file that is not there is not opened", File::open(c"/root/none", 0).is_err())
        & check("nothing is opened for writing", File::open(PATH, WRITE_ONLY).is_err())
        & check("nothing is created", File::open(c"/root/new", WRITE_ONLY | CREATE).is_err())
        & check("nothing is removed", !unlink(PATH))
        & check("the file is there still", File::open(PATH, 0).is_ok())
}
