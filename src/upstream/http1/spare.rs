//! The memory of one map of fields that is done with, kept for the next answer on this thread: an answer that comes takes
//! it, and the request that is answered leaves its own.

use std::cell::Cell;

use http::HeaderMap;

use super::head::MAX_FIELDS;

/// An empty map.
pub(crate) fn take() -> HeaderMap {
    SPARE.take()
}

/// Keeps the memory of a map, without what is in it.
pub(crate) fn give(mut headers: HeaderMap) {
    if headers.capacity() <= MAX_FIELDS {
        headers.clear();
        SPARE.set(headers);
    }
}

thread_local! {
    static SPARE: Cell<HeaderMap> = Cell::default();
}

#[cfg(test)]
mod tests {
    use http::header::{HOST, HeaderValue};

    use super::*;

    #[test]
    fn a_map_comes_back_once_and_empty() {
        let mut headers = HeaderMap::with_capacity(20);
        headers.insert(HOST, HeaderValue::from_static("hosp"));
        let room = headers.capacity();
        give(headers);
        let again = take();
        assert_eq!((again.len(), again.capacity()), (0, room));
        assert_eq!(take().capacity(), 0);
    }

    #[test]
    fn a_map_larger_than_any_answer_is_not_kept() {
        give(HeaderMap::with_capacity(10 * MAX_FIELDS));
        assert_eq!(take().capacity(), 0);
    }
}
