//! 5-level paging. Intel SDM vol. 3, 4.5 "4-Level Paging and 5-Level Paging".

/// 5-level paging.
pub(crate) enum FiveLevel {}

super::eight_byte_format!(FiveLevel, 5, false);
