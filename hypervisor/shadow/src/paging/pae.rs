//! PAE paging: four PDPTE registers and two levels of 8-byte entries.
//! Intel SDM vol. 3, 4.4 "PAE Paging".

/// PAE paging, below the PDPTEs.
pub(crate) enum Pae {}

super::eight_byte_format!(Pae, 2, true);
