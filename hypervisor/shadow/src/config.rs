//! How an engine is set up.

use core::fmt;

use anchorite_addr::Hpa;

/// Most shadow pages an engine can number: 22 bits of a link.
pub const MAX_PAGES: u32 = (1 << 22) - 8;
/// Pages that the engine needs besides what the vCPUs pin.
const BASE_QUOTA: u32 = 16;
/// Pages that one vCPU can pin: four PAE roots, old and new during a reload.
const VCPU_QUOTA: u32 = 8;

/// Settings of an engine; constant while it lives, but for the quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Most shadow pages in use at once, stale ones included (`n_max`).
    pub quota: u32,
    /// Most vCPUs that will be added.
    pub max_vcpus: u16,
    /// The first generation, normally 1. Tests start shortly before the tag wraps.
    pub start_generation: u64,
    /// The guest's physical address width in bits (CPUID 80000008H:EAX\[7:0\]), 32 to 52.
    pub physical_bits: u8,
    /// Whether the guest's CPUID shows 1 GiB pages; otherwise PS in a PDPTE is reserved.
    pub guest_gigabyte_pages: bool,
    /// Whether hardware maps 1 GiB pages.
    pub host_gigabyte_pages: bool,
    /// Most entries installed after the one that faulted, where the guest set their A bit
    /// already. 0 switches prefetching off.
    pub prefetch: u8,
    /// Pages a sweep takes apart between two lock breaks, 1 to 256. Policy `batch` only.
    pub batch: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            quota: 1024,
            max_vcpus: 1,
            start_generation: 1,
            physical_bits: 40,
            guest_gigabyte_pages: false,
            host_gigabyte_pages: false,
            prefetch: 15,
            batch: 10,
        }
    }
}

/// Why an engine cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// `quota` is too small for the vCPUs, or beyond [`MAX_PAGES`].
    Quota {
        /// The value given.
        quota: u32,
        /// The least that works with `max_vcpus`.
        least: u32,
    },
    /// `max_vcpus` is 0 or beyond 1024.
    Vcpus(u16),
    /// `start_generation` is so large that it could overflow.
    Generation(u64),
    /// `physical_bits` is not in 32..=52.
    PhysicalBits(u8),
    /// `batch` is not in 1..=256.
    Batch(u16),
    /// The arena is empty, beyond [`MAX_PAGES`], misaligned or passes 2^52.
    Arena {
        /// Its base.
        base: Hpa,
        /// Its size in shadow pages.
        pages: u32,
    },
    /// The generation tag's width is not in 2..=32.
    TagBits(u32),
    /// The heap has no room for the metadata.
    OutOfMemory,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quota { quota, least } => {
                write!(f, "quota {quota}: give {least} to {MAX_PAGES} pages")
            }
            Self::Vcpus(n) => write!(f, "max_vcpus {n}: give 1 to 1024"),
            Self::Generation(n) => write!(f, "start_generation {n}: give at most 2^62"),
            Self::PhysicalBits(n) => write!(f, "physical_bits {n}: give 32 to 52"),
            Self::Batch(n) => write!(f, "batch {n}: give 1 to 256"),
            Self::Arena { base, pages } => write!(
                f,
                "arena of {pages} pages at {base}: give a 4 KiB-aligned base and 1 to {MAX_PAGES} pages below 2^52"
            ),
            Self::TagBits(n) => write!(f, "tag of {n} bits: give 2 to 32"),
            Self::OutOfMemory => write!(f, "the heap has no room for the engine's metadata"),
        }
    }
}

impl core::error::Error for ConfigError {}

impl Config {
    /// The least quota for `max_vcpus`.
    pub fn least_quota(max_vcpus: u16) -> u32 {
        BASE_QUOTA + VCPU_QUOTA * u32::from(max_vcpus)
    }

    /// Refuses what cannot work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let least = Self::least_quota(self.max_vcpus);
        if self.max_vcpus == 0 || self.max_vcpus > 1024 {
            return Err(ConfigError::Vcpus(self.max_vcpus));
        }
        if self.quota < least || self.quota > MAX_PAGES {
            let quota = self.quota;
            return Err(ConfigError::Quota { quota, least });
        }
        if self.start_generation > 1 << 62 {
            return Err(ConfigError::Generation(self.start_generation));
        }
        if !(32..=52).contains(&self.physical_bits) {
            return Err(ConfigError::PhysicalBits(self.physical_bits));
        }
        if !(1..=256).contains(&self.batch) {
            return Err(ConfigError::Batch(self.batch));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_is_refused_beyond_its_range() {
        let good = Config::default();
        assert_eq!(good.validate(), Ok(()));
        let refused = |change: fn(&mut Config)| {
            let mut config = good;
            change(&mut config);
            config.validate().expect_err("out of range")
        };
        assert_eq!(refused(|c| c.max_vcpus = 0), ConfigError::Vcpus(0));
        assert_eq!(refused(|c| c.quota = 23), ConfigError::Quota { quota: 23, least: 24 });
        assert_eq!(refused(|c| c.physical_bits = 53), ConfigError::PhysicalBits(53));
        assert_eq!(refused(|c| c.batch = 257), ConfigError::Batch(257));
        assert_eq!(refused(|c| c.start_generation = u64::MAX), ConfigError::Generation(u64::MAX));
    }
}
