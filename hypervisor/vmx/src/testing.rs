//! Fields from a list, for tests.
extern crate std;

use crate::FieldSource;
use std::collections::BTreeMap;
use std::vec::Vec;

/// Holds exactly the listed fields; reading another one is the test's failure.
pub(crate) struct Strict(pub(crate) Vec<(u32, u64)>);

impl FieldSource for Strict {
    fn read(&self, field: u32) -> u64 {
        let found = self.0.iter().find(|(listed, _)| *listed == field);
        found.unwrap_or_else(|| panic!("field {field:#x} is not valid for this exit")).1
    }
}

/// A whole VMCS; fields never written read as 0.
#[derive(Clone, Default)]
pub(crate) struct Fields(pub(crate) BTreeMap<u32, u64>);

impl Fields {
    pub(crate) fn with(mut self, settings: &[(u32, u64)]) -> Self {
        self.0.extend(settings.iter().copied());
        self
    }
}

impl FieldSource for Fields {
    fn read(&self, field: u32) -> u64 {
        self.0.get(&field).copied().unwrap_or(0)
    }
}
