//! The zap policies: what becomes of shadow pages that a zap-all made stale.
//!
//! A policy is a type with constants, so that the engine of one policy holds no branch
//! for another; [`AnyMmu`] chooses one at run time, once per call.

mod any;

pub use any::AnyMmu;

/// The names of the policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PolicyKind {
    /// Unlink and free every page under the lock (before 2013).
    Walk,
    /// Generation, then a sweep in batches with lock breaks; the caller waits (Linux 3.11).
    Batch,
    /// Generation; stale pages stay linked and are freed first at the quota (Gleb Natapov).
    Quota,
    /// Generation; each allocation unlinks and reuses one stale page (Marcelo Tosatti).
    Reuse,
    /// Generation; bounded slices on idle exits (as the TDP MMU's worker).
    Background,
    /// Generation in every head; nothing to unlink.
    Tagged,
}

impl PolicyKind {
    /// Every policy.
    pub const ALL: [Self; 6] =
        [Self::Walk, Self::Batch, Self::Quota, Self::Reuse, Self::Background, Self::Tagged];

    /// The name on a command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Walk => "walk",
            Self::Batch => "batch",
            Self::Quota => "quota",
            Self::Reuse => "reuse",
            Self::Background => "background",
            Self::Tagged => "tagged",
        }
    }

    /// The policy called `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// What happens to the pages that `zap_all` made stale, before it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// All are unlinked in one go.
    Whole,
    /// `zap_all` only begins; the caller drives `zap_continue`, a batch a call.
    Batches,
    /// Nothing.
    Lazy,
}

/// Where an allocation looks first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Supply {
    /// Stale pages, then free frames, then eviction.
    StaleFirst,
    /// Free frames up to the quota, then stale pages, then eviction.
    FreeFirst,
}

/// A zap policy, as constants.
pub trait ZapPolicy {
    /// Which one.
    const KIND: PolicyKind;
    /// Whether heads carry the generation, so that stale pages need no unlinking.
    const TAGGED: bool;
    /// What `zap_all` does with stale pages.
    const SWEEP: Sweep;
    /// Where an allocation looks first.
    const SUPPLY: Supply;
    /// Whether idle exits take stale pages apart.
    const IDLE_SLICES: bool;
}

macro_rules! policies {
    ($($(#[$doc:meta])* $name:ident: $tagged:literal, $sweep:ident, $supply:ident, $idle:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub enum $name {}

        impl ZapPolicy for $name {
            const KIND: PolicyKind = PolicyKind::$name;
            const TAGGED: bool = $tagged;
            const SWEEP: Sweep = Sweep::$sweep;
            const SUPPLY: Supply = Supply::$supply;
            const IDLE_SLICES: bool = $idle;
        }
    )*};
}

policies! {
    /// [`PolicyKind::Walk`].
    Walk: false, Whole, FreeFirst, false;
    /// [`PolicyKind::Batch`].
    Batch: false, Batches, FreeFirst, false;
    /// [`PolicyKind::Quota`].
    Quota: false, Lazy, FreeFirst, false;
    /// [`PolicyKind::Reuse`].
    Reuse: false, Lazy, StaleFirst, false;
    /// [`PolicyKind::Background`].
    Background: false, Lazy, FreeFirst, true;
    /// [`PolicyKind::Tagged`], the default.
    Tagged: true, Lazy, StaleFirst, false;
}
