//! The rate of the time-stamp counter that the image will see, where it can be known.
//!
//! Without it Hermit measures for 30 ms, which takes time and goes wrong on a busy host.

use std::fs;

use super::{On, bochs};

/// In MHz. Bochs' clock is set by us; with counted instructions QEMU's advances by one each
/// nanosecond; otherwise QEMU passes the host's counter through.
pub(crate) fn megahertz(on: On, icount: bool) -> Option<u16> {
    match on {
        On::Bochs => Some(bochs::TSC_MHZ),
        On::Qemu if icount => Some(1000),
        On::Qemu | On::Kvm => hosts(&fs::read_to_string("/proc/cpuinfo").ok()?),
    }
}

/// Intel's model names end in the rate of the counter. In a virtual machine `cpu MHz` is that
/// rate, while on real hardware it is the momentary clock and says nothing.
fn hosts(cpuinfo: &str) -> Option<u16> {
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim())
    };
    let constant = |flag: &str| field("flags")?.split(' ').find(|word| *word == flag);
    constant("constant_tsc")?;
    let named = field("model name").and_then(|name| name.rsplit_once("@ ")?.1.strip_suffix("GHz"));
    if let Some(gigahertz) = named {
        return rounded(gigahertz.parse::<f64>().ok()? * 1000.0);
    }
    constant("hypervisor").and_then(|_| rounded(field("cpu MHz")?.parse().ok()?))
}

#[expect(clippy::cast_sign_loss, reason = "the range is checked just before")]
fn rounded(megahertz: f64) -> Option<u16> {
    (1.0..=f64::from(u16::MAX)).contains(&megahertz).then(|| megahertz.round() as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpuinfo(model: &str, mhz: &str, flags: &str) -> String {
        format!(
            "processor\t: 0\nmodel name\t: {model}\ncpu MHz\t\t: {mhz}\nflags\t\t: fpu {flags}\n"
        )
    }

    #[test]
    fn intels_name_tells_the_rate_whatever_the_momentary_clock() {
        let text = cpuinfo("Intel(R) Xeon(R) CPU @ 2.60GHz", "3412.5", "constant_tsc");
        assert_eq!(hosts(&text), Some(2600));
    }

    #[test]
    fn a_virtual_machines_clock_is_its_counters_rate() {
        let text = cpuinfo("AMD EPYC", "2596.126", "constant_tsc hypervisor");
        assert_eq!(hosts(&text), Some(2596));
    }

    #[test]
    fn a_rate_that_cannot_be_known_is_left_to_be_measured() {
        assert_eq!(hosts(&cpuinfo("AMD Ryzen 7", "1397.2", "constant_tsc")), None);
        assert_eq!(hosts(&cpuinfo("AMD EPYC", "2596.1", "hypervisor")), None);
        assert_eq!(hosts(&cpuinfo("x @ 99999GHz", "1", "constant_tsc")), None);
        assert_eq!(hosts(""), None);
    }

    #[test]
    fn what_the_emulators_fix_is_not_asked_from_the_host() {
        assert_eq!(megahertz(On::Bochs, false), Some(bochs::TSC_MHZ));
        assert_eq!(megahertz(On::Qemu, true), Some(1000));
    }
}
