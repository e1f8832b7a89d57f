//! Tests of the loader over handcrafted files.

mod arguments;
mod corpus;
mod files;
mod formats;
mod malformed;
mod multiboot_info;
mod properties;
mod ram;
mod real_files;
