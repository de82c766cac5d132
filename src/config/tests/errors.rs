//! Each error as an operator sees it, by topic. The texts stand in files beside the tests.

use std::fs;
use std::path::Path;

use super::*;

mod backend;
mod retry;
mod rules;
mod sites;
mod syntax;
mod tls;
mod values;

#[test]
fn every_text_belongs_to_a_test() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(SNAPSHOTS);
    let entries = |folder: &Path| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut count = 0;
    for topic in entries(&folder).filter(|path| path.is_dir()) {
        let tests = fs::read_to_string(topic.with_extension("rs")).unwrap();
        for text in entries(&topic) {
            let name = text.strip_prefix(&folder).unwrap().with_extension("");
            assert!(tests.contains(&format!("{name:?}")), "no test compares {}", text.display());
            count += 1;
        }
    }
    assert!(count > 50, "there are {count}");
}
