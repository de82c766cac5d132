//! The `stent` program.

use std::process::ExitCode;

/// Each request allocates, and what a worker allocates for its record is freed on the access log's thread: mimalloc
/// takes no lock for either. The measured cost per request that the design rests on includes it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    stent::cli::main()
}
