//! What is said about how a cluster is reached: TLS, its files, and the protocol.

use super::super::*;

#[test]
fn a_cluster_that_is_reached_in_two_ways_or_by_settings_that_do_not_fit_is_refused() {
    assert_rejected(&[r#""#, LISTENER, ROUTE], "");
}
