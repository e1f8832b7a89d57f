//! 4-level paging. Intel SDM vol. 3, 4.5 "4-Level Paging and 5-Level Paging".

/// 4-level paging.
pub(crate) enum FourLevel {}

super::eight_byte_format!(FourLevel, 4, false);
