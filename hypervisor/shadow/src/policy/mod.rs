//! The zap policies: what becomes of shadow pages that a zap-all made stale.
//!
//! Two engines are compiled. That of the default, [`Tagged`], knows its policy and holds no
//! branch for another. The policies of 2013 have heads without tags and unlink stale pages
//! entry by entry; what they differ in is asked at a zap, an allocation or an idle exit, so
//! one engine, [`Linked`], serves all five. [`AnyMmu`] holds either.

mod any;

pub use any::AnyMmu;

use core::fmt;

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

    /// What `zap_all` does with stale pages.
    #[inline]
    pub const fn sweep(self) -> Sweep {
        match self {
            Self::Walk => Sweep::Whole,
            Self::Batch => Sweep::Batches,
            Self::Quota | Self::Reuse | Self::Background | Self::Tagged => Sweep::Lazy,
        }
    }

    /// Where an allocation looks first.
    #[inline]
    pub const fn supply(self) -> Supply {
        match self {
            Self::Reuse | Self::Tagged => Supply::StaleFirst,
            Self::Walk | Self::Batch | Self::Quota | Self::Background => Supply::FreeFirst,
        }
    }

    /// Whether idle exits take stale pages apart.
    #[inline]
    pub const fn has_idle_slices(self) -> bool {
        matches!(self, Self::Background)
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

/// The policy of an engine.
pub trait ZapPolicy: Copy + fmt::Debug {
    /// Whether heads carry the generation, so that stale pages need no unlinking.
    const TAGGED: bool;

    /// The policy called `kind`, where this type carries it.
    fn of(kind: PolicyKind) -> Option<Self>;

    /// Which one.
    fn kind(self) -> PolicyKind;
}

/// [`PolicyKind::Tagged`], the default.
#[derive(Clone, Copy, Debug)]
pub struct Tagged;

impl ZapPolicy for Tagged {
    const TAGGED: bool = true;

    fn of(kind: PolicyKind) -> Option<Self> {
        (kind == PolicyKind::Tagged).then_some(Self)
    }

    #[inline]
    fn kind(self) -> PolicyKind {
        PolicyKind::Tagged
    }
}

/// Any of the others: stale pages stay linked until they are taken apart.
#[derive(Clone, Copy, Debug)]
pub struct Linked(PolicyKind);

impl ZapPolicy for Linked {
    const TAGGED: bool = false;

    fn of(kind: PolicyKind) -> Option<Self> {
        (kind != PolicyKind::Tagged).then_some(Self(kind))
    }

    #[inline]
    fn kind(self) -> PolicyKind {
        self.0
    }
}
