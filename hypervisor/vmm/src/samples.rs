//! How many shadow pages were in which state, whenever the guest asked for it to be noted.

use crate::host::Host;
use crate::machine::Machine;
use crate::translation::Translation;
use alloc::vec::Vec;
use anchorite_shadow::Usage;
use anchorite_vcpu::Vcpu;
use core::fmt;

/// Samples kept; what a guest asks for beyond them is left out.
const MOST: usize = 4096;
/// Samples in a line of JSON.
const A_LINE: usize = 256;

/// One look at the shadow pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When the guest had been left for it.
    pub tick: u64,
    /// The shadow pages by state.
    pub usage: Usage,
}

/// All looks so far. Nothing is printed before the run's end: the console would be in the
/// way of what the guest measures.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<Sample>);

impl Samples {
    fn add(&mut self, sample: Sample) {
        if self.0.len() < MOST {
            self.0.push(sample);
        }
    }

    /// Lines of JSON, each after `prefix`: arrays of tick, current pages, stale ones, those
    /// that wait for a flush, and free ones.
    pub fn write_json(&self, prefix: &str, out: &mut impl fmt::Write) -> fmt::Result {
        for line in self.0.chunks(A_LINE) {
            write!(out, "{prefix}{{\"schema\":1,\"record\":\"frames\",\"samples\":[")?;
            for (position, Sample { tick, usage }) in line.iter().enumerate() {
                let Usage { active, stale, limbo, free, .. } = usage;
                let comma = if position == 0 { "" } else { "," };
                write!(out, "{comma}[{tick},{active},{stale},{limbo},{free}]")?;
            }
            out.write_str("]}\n")?;
        }
        Ok(())
    }
}

impl<B: Vcpu, T: Translation, H: Host> Machine<B, T, H> {
    /// Looks at the shadow pages, if there are any.
    #[cold]
    pub(crate) fn sample(&mut self) {
        if let Some(usage) = self.translation.usage() {
            self.samples.add(Sample { tick: self.left, usage });
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::String;

    #[test]
    fn samples_become_lines_that_stay_short_and_do_not_grow_for_ever() {
        let mut samples = Samples::default();
        for tick in 0..10_000 {
            let usage = Usage { active: 1, stale: 2, limbo: 3, free: 4, ..Usage::default() };
            samples.add(Sample { tick, usage });
        }
        let mut text = String::new();
        samples.write_json("json: ", &mut text).unwrap();
        assert_eq!(text.lines().count(), MOST / A_LINE);
        let first = text.lines().next().unwrap().strip_prefix("json: ").unwrap();
        let value: serde_json::Value = serde_json::from_str(first).unwrap();
        assert_eq!(value["samples"].as_array().unwrap().len(), A_LINE);
        assert_eq!(value["samples"][7], serde_json::json!([7, 1, 2, 3, 4]));
    }
}
