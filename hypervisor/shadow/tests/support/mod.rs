//! The simulated machine and its judge, shared by the integration tests.

pub mod fixture;
pub mod hardware;
pub mod history;
pub mod machine;
pub mod ops;
pub mod reference;
pub mod rng;
pub mod run;
pub mod shrink;
pub mod world;
