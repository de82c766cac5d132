//! Counters that exist for every status, made when first used.

use std::sync::OnceLock;

use prometheus::IntCounter;

use crate::policy::grpc::GrpcStatus;

/// One counter per status, made when first used: most of the 500 never are.
pub(super) struct CodeCounters {
    cells: Box<[OnceLock<IntCounter>]>,
    make: Box<dyn Fn(&str) -> IntCounter + Send + Sync>,
}

impl std::fmt::Debug for CodeCounters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.used()).finish()
    }
}

impl CodeCounters {
    /// Statuses 100 to 599, and one cell for what lies outside.
    const CELLS: usize = 501;

    pub(super) fn new(make: impl Fn(&str) -> IntCounter + Send + Sync + 'static) -> Self {
        Self { cells: (0..Self::CELLS).map(|_| OnceLock::new()).collect(), make: Box::new(make) }
    }

    pub(super) fn get(&self, code: u16) -> &IntCounter {
        let cell = usize::from(code).wrapping_sub(100).min(Self::CELLS - 1);
        self.cells[cell].get_or_init(|| (self.make)(&Self::label(cell)))
    }

    /// The labels of the counters that exist.
    pub(super) fn used(&self) -> impl Iterator<Item = String> {
        self.cells
            .iter()
            .enumerate()
            .filter(|(_, cell)| cell.get().is_some())
            .map(|(cell, _)| Self::label(cell))
    }

    fn label(cell: usize) -> String {
        if cell == Self::CELLS - 1 { "other".to_owned() } else { (cell + 100).to_string() }
    }
}

/// One counter per status of gRPC, made when first used.
#[derive(Debug, Default)]
pub(super) struct GrpcCounters([OnceLock<IntCounter>; GrpcStatus::COUNT]);

impl GrpcCounters {
    pub(super) fn get(&self, status: GrpcStatus, make: impl FnOnce(&str) -> IntCounter) -> &IntCounter {
        self.0[usize::from(status.number())].get_or_init(|| make(status.label()))
    }

    /// The statuses whose counters exist.
    pub(super) fn used(&self) -> impl Iterator<Item = GrpcStatus> {
        GrpcStatus::all().filter(|status| self.0[usize::from(status.number())].get().is_some())
    }
}
