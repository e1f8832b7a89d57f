//! Tests of the loader over handcrafted files.

mod arguments;
mod corpus;
mod files;
mod formats;
mod gzip;
mod hermit;
mod linux64;
mod malformed;
mod multiboot2;
mod multiboot_info;
mod properties;
mod ram;
mod real_files;
