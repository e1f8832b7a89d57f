//! The image's own command line.
//!
//! `<name of the image> mmu=nested mem=64 timeout=20 json=1 -freq 1000 -- …`: the boot
//! loader puts the name first, `-freq` is Hermit's own word, and whatever follows
//! `--` is not ours. Tools write it with `Display`, the image reads it with
//! [`Options::parse`].

use core::fmt;

/// How guest-physical memory is translated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mmu {
    /// By the processor: NPT or EPT.
    Nested,
    /// By shadow page tables.
    #[default]
    Shadow,
}

impl Mmu {
    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nested => "nested",
            Self::Shadow => "shadow",
        }
    }
}

/// How much of a PC the guest finds. Each set has what the one before it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeviceSet {
    /// A serial line to be polled; neither interrupts nor a timer.
    L0,
    /// Interrupt controllers (8259), and the serial line's interrupt.
    L1,
    /// Timer channel 0 (8254) and its interrupt.
    L2,
    /// Timer channel 2 with port 0x61, real-time clock and CMOS memory, keyboard
    /// controller: the classic PC.
    #[default]
    L3,
    /// Local and I/O APIC, PCI configuration, power management; ACPI and MP tables.
    L4,
}

impl DeviceSet {
    /// All of them, the smallest first.
    pub const ALL: [Self; 5] = [Self::L0, Self::L1, Self::L2, Self::L3, Self::L4];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::L0 => "l0",
            Self::L1 => "l1",
            Self::L2 => "l2",
            Self::L3 => "l3",
            Self::L4 => "l4",
        }
    }
}

/// What the image is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options<'a> {
    /// How guest-physical memory is translated.
    pub mmu: Mmu,
    /// Guest RAM in MiB.
    pub mem_mib: u32,
    /// The guest is stopped after so many seconds.
    pub timeout_s: u32,
    /// Print the counters as lines of JSON at the end.
    pub json: bool,
    /// The zap policy of the shadow engine: its name and parameters.
    pub zap: Option<&'a str>,
    /// Most shadow pages the engine may hold; 0 for as many as fit.
    pub shadow_pages: u32,
    /// Zap all shadow pages so many times a second while the guest runs; 0 for never.
    pub zap_rate: u32,
    /// Features that CPUID hides although it could show them: names with commas between.
    pub hide: Option<&'a str>,
    /// The guest file's kind, where it is not to be recognized; the loader's names.
    pub kind: Option<&'a str>,
    /// What devices the machine has.
    pub devices: DeviceSet,
    /// A guest that resets the machine by a port has passed; else that is an error.
    pub reset_passes: bool,
    /// A guest that ends in a triple fault has passed; else that is an error.
    pub triple_fault_passes: bool,
    /// The run ends well once the guest has printed this text, in which [`crate::text`] hides
    /// blanks.
    pub until: Option<&'a str>,
    /// Check the shadow engine's invariants when the guest has ended: slow.
    pub audit: bool,
    /// RAM is all zero at the start, as in an emulator: the guest's need not be cleared.
    pub zeroed: bool,
    /// The TSC counts instructions (QEMU's -icount), so that waits are exact however short.
    pub counted: bool,
    /// The rate of the TSC, where it is known; saves Hermit's 30 ms of measuring.
    pub tsc_mhz: Option<u16>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            mmu: Mmu::default(),
            mem_mib: 64,
            timeout_s: 60,
            json: false,
            zap: None,
            shadow_pages: 0,
            zap_rate: 0,
            hide: None,
            kind: None,
            devices: DeviceSet::default(),
            reset_passes: false,
            triple_fault_passes: false,
            until: None,
            zeroed: false,
            counted: false,
            audit: false,
            tsc_mhz: None,
        }
    }
}

/// A word of the command line that cannot be obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionError<'a> {
    /// No option has this name.
    Unknown {
        /// The word.
        word: &'a str,
    },
    /// The option does not take this value.
    BadValue {
        /// The option's name.
        name: &'static str,
        /// The value given.
        value: &'a str,
        /// The values it takes.
        expected: &'static str,
    },
}

impl fmt::Display for OptionError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { word } => write!(
                f,
                "unknown option {word:?}; known are mmu=, mem=, timeout=, json=, zap=, shadow_pages=, zap_rate=, hide=, kind=, devices=, reset=, triple_fault=, until=, audit=, zeroed=, counted=, -freq"
            ),
            Self::BadValue { name, value, expected } => {
                write!(f, "option {name}={value:?} is not {expected}")
            }
        }
    }
}

impl<'a> Options<'a> {
    /// Reads the raw command line.
    pub fn parse(line: &'a str) -> Result<Self, OptionError<'a>> {
        let mut options = Self::default();
        let mut words = line.split_ascii_whitespace().enumerate();
        while let Some((position, word)) = words.next() {
            match word.split_once('=') {
                _ if word == "--" => break,
                _ if word == "-freq" => {
                    let value = words.next().map_or("", |(_, value)| value);
                    options.tsc_mhz = Some(number(value, "-freq", 1..=u32::from(u16::MAX))? as u16);
                }
                Some((name, value)) => options.set(word, name, value)?,
                // The boot loader's name for the image.
                None if position == 0 => {}
                None => return Err(OptionError::Unknown { word }),
            }
        }
        Ok(options)
    }

    fn set(&mut self, word: &'a str, name: &str, value: &'a str) -> Result<(), OptionError<'a>> {
        match name {
            "mmu" => self.mmu = mmu(value)?,
            "mem" => self.mem_mib = number(value, "mem", 2..=1 << 20)?,
            "timeout" => self.timeout_s = number(value, "timeout", 1..=1 << 24)?,
            "json" => self.json = number(value, "json", 0..=1)? == 1,
            "shadow_pages" => self.shadow_pages = number(value, "shadow_pages", 0..=1 << 24)?,
            "zap_rate" => self.zap_rate = number(value, "zap_rate", 0..=1_000_000)?,
            "zap" => self.zap = Some(value),
            "hide" => self.hide = Some(value),
            "kind" => self.kind = Some(value),
            "devices" => self.devices = devices(value)?,
            "reset" => self.reset_passes = passes(value, "reset")?,
            "triple_fault" => self.triple_fault_passes = passes(value, "triple_fault")?,
            "until" => self.until = Some(value),
            "zeroed" => self.zeroed = number(value, "zeroed", 0..=1)? == 1,
            "audit" => self.audit = number(value, "audit", 0..=1)? == 1,
            "counted" => self.counted = number(value, "counted", 0..=1)? == 1,
            _ => return Err(OptionError::Unknown { word }),
        }
        Ok(())
    }
}

fn mmu(value: &str) -> Result<Mmu, OptionError<'_>> {
    [Mmu::Nested, Mmu::Shadow]
        .into_iter()
        .find(|mmu| mmu.name() == value)
        .ok_or(OptionError::BadValue { name: "mmu", value, expected: "nested or shadow" })
}

fn devices(value: &str) -> Result<DeviceSet, OptionError<'_>> {
    DeviceSet::ALL.into_iter().find(|set| set.name() == value).ok_or(OptionError::BadValue {
        name: "devices",
        value,
        expected: "l0, l1, l2, l3 or l4",
    })
}

fn passes<'a>(value: &'a str, name: &'static str) -> Result<bool, OptionError<'a>> {
    match value {
        "pass" => Ok(true),
        "error" => Ok(false),
        _ => Err(OptionError::BadValue { name, value, expected: "pass or error" }),
    }
}

fn number<'a>(
    value: &'a str,
    name: &'static str,
    range: core::ops::RangeInclusive<u32>,
) -> Result<u32, OptionError<'a>> {
    let expected = match name {
        "mem" => "a number of MiB, 2 to 1048576",
        "timeout" => "a number of seconds, 1 to 16777216",
        "json" | "audit" | "zeroed" | "counted" => "0 or 1",
        "zap_rate" => "a number of zaps a second, at most 1000000",
        "shadow_pages" => "a number of pages, at most 16777216",
        _ => "a number of MHz, 1 to 65535",
    };
    value.parse().ok().filter(|number| range.contains(number)).ok_or(OptionError::BadValue {
        name,
        value,
        expected,
    })
}

impl fmt::Display for Options<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mmu={} mem={} timeout={}", self.mmu.name(), self.mem_mib, self.timeout_s)?;
        if self.json {
            f.write_str(" json=1")?;
        }
        if let Some(zap) = self.zap {
            write!(f, " zap={zap}")?;
        }
        if self.shadow_pages != 0 {
            write!(f, " shadow_pages={}", self.shadow_pages)?;
        }
        if self.zap_rate != 0 {
            write!(f, " zap_rate={}", self.zap_rate)?;
        }
        if let Some(hide) = self.hide {
            write!(f, " hide={hide}")?;
        }
        if let Some(kind) = self.kind {
            write!(f, " kind={kind}")?;
        }
        if self.devices != DeviceSet::default() {
            write!(f, " devices={}", self.devices.name())?;
        }
        if self.reset_passes {
            f.write_str(" reset=pass")?;
        }
        if self.triple_fault_passes {
            f.write_str(" triple_fault=pass")?;
        }
        if let Some(until) = self.until {
            write!(f, " until={until}")?;
        }
        if self.zeroed {
            f.write_str(" zeroed=1")?;
        }
        if self.audit {
            f.write_str(" audit=1")?;
        }
        if self.counted {
            f.write_str(" counted=1")?;
        }
        if let Some(mhz) = self.tsc_mhz {
            write!(f, " -freq {mhz}")?;
        }
        f.write_str(" --")
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn what_a_tool_writes_the_image_reads() {
        let options = Options {
            mmu: Mmu::Shadow,
            mem_mib: 512,
            timeout_s: 7,
            json: true,
            zap: Some("batch:64"),
            shadow_pages: 4096,
            zap_rate: 100,
            hide: Some("smep,smap"),
            kind: Some("flat:0:7c00"),
            devices: DeviceSet::L0,
            reset_passes: true,
            triple_fault_passes: true,
            until: Some("Pass%201"),
            zeroed: true,
            counted: true,
            audit: true,
            tsc_mhz: Some(1000),
        };
        assert_eq!(Options::parse(&options.to_string()), Ok(options));
        let default = Options::default();
        assert_eq!(Options::parse(&default.to_string()), Ok(default));
    }

    #[test]
    fn the_boot_loaders_name_and_what_follows_the_dashes_are_not_ours() {
        let options =
            Options::parse("/boot/anchorite.elf mem=32 -- mem=64 anything").expect("fine");
        assert_eq!(options.mem_mib, 32);
        assert_eq!(Options::parse(""), Ok(Options::default()));
    }

    #[test]
    fn words_that_cannot_be_obeyed_are_named() {
        let unknown = |word| Err(OptionError::Unknown { word });
        assert_eq!(Options::parse("a memory=3"), unknown("memory=3"));
        assert_eq!(Options::parse("a quiet"), unknown("quiet"));
        for line in [
            "mem=",
            "mem=0",
            "mem=x",
            "mem=-1",
            "json=2",
            "mmu=none",
            "devices=l5",
            "reset=fail",
            "triple_fault=reset",
            "-freq",
            "-freq 0",
            "-freq 65536",
            "timeout=0",
        ] {
            let error = Options::parse(line).expect_err(line);
            assert!(matches!(error, OptionError::BadValue { .. }), "{line}: {error}");
        }
    }
}
