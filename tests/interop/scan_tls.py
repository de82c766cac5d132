"""Scans a port with sslyze and judges what it finds: anything above informational fails.

scan_tls.py PORT NAME CA
"""

import sys
from pathlib import Path

from sslyze import (
    CertificateInfoExtraArgument,
    RobotScanResultEnum,
    ScanCommand,
    ScanCommandAttemptStatusEnum,
    ScanCommandsExtraArguments,
    Scanner,
    ServerNetworkConfiguration,
    ServerNetworkLocation,
    ServerScanRequest,
)

OLD = ["ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"]
NEW = ["tls_1_2", "tls_1_3"]
# Forward secrecy and authenticated encryption, nothing else.
STRONG = ("TLS_AES_", "TLS_CHACHA20_", "TLS_ECDHE_")

CURVES = ["X25519", "prime256v1", "secp256r1", "secp384r1", "secp521r1"]


def main(port, name, ca):
    arguments = ScanCommandsExtraArguments(certificate_info=CertificateInfoExtraArgument(custom_ca_file=Path(ca)))
    commands = {command for command in ScanCommand if command is not ScanCommand.HTTP_HEADERS}
    request = ServerScanRequest(
        server_location=ServerNetworkLocation(hostname=name, port=port, ip_address="127.0.0.1"),
        network_configuration=ServerNetworkConfiguration(tls_server_name_indication=name),
        scan_commands=commands,
        scan_commands_extra_arguments=arguments,
    )
    scanner = Scanner()
    scanner.queue_scans([request])
    (result,) = scanner.get_results()
    assert result.scan_result, (result.connectivity_status, result.connectivity_error_trace)
    scan = result.scan_result
    findings = []

    def of(command):
        attempt = getattr(scan, command)
        if attempt.status is not ScanCommandAttemptStatusEnum.COMPLETED:
            findings.append(f"{command}: the scan did not complete: {attempt.error_reason} {attempt.error_trace or ''}")
            return None
        return attempt.result

    def finding(condition, text):
        print("found:" if condition else "not found:", text)
        if condition:
            findings.append(text)

    for version in OLD:
        if suites := of(f"{version}_cipher_suites"):
            finding(bool(suites.accepted_cipher_suites), f"{version} is accepted")
    for version in NEW:
        if suites := of(f"{version}_cipher_suites"):
            names = [accepted.cipher_suite.name for accepted in suites.accepted_cipher_suites]
            finding(not names, f"{version} is refused")
            weak = [suite for suite in names if not suite.startswith(STRONG) or "CBC" in suite]
            finding(bool(weak), f"{version}: weak suites {weak} among {len(names)}")
    if certificate := of("certificate_info"):
        for deployment in certificate.certificate_deployments:
            trusted = [path for path in deployment.path_validation_results if path.was_validation_successful]
            finding(not trusted, "the chain does not lead to the CA")
            finding(not deployment.received_chain_has_valid_order, "the chain is out of order")
            finding(bool(deployment.verified_chain_has_sha1_signature), "SHA-1 in the chain")
    if robot := of("robot"):
        safe = {RobotScanResultEnum.NOT_VULNERABLE_NO_ORACLE, RobotScanResultEnum.NOT_VULNERABLE_RSA_NOT_SUPPORTED}
        finding(robot.robot_result not in safe, f"ROBOT: {robot.robot_result.name}")
    for command, field, bad, text in [
        ("heartbleed", "is_vulnerable_to_heartbleed", True, "Heartbleed"),
        ("openssl_ccs_injection", "is_vulnerable_to_ccs_injection", True, "CCS injection"),
        ("tls_compression", "supports_compression", True, "compression (CRIME)"),
        ("tls_fallback_scsv", "supports_fallback_scsv", False, "no TLS_FALLBACK_SCSV"),
        ("session_renegotiation", "is_vulnerable_to_client_renegotiation_dos", True, "renegotiation by the client"),
        ("session_renegotiation", "supports_secure_renegotiation", False, "no secure renegotiation"),
        ("tls_1_3_early_data", "supports_early_data", True, "0-RTT, which can be replayed"),
        ("tls_extended_master_secret", "supports_ems_extension", False, "no extended master secret"),
    ]:
        if found := of(command):
            finding(getattr(found, field) == bad, text)
    if curves := of("elliptic_curves"):
        weak = [curve.name for curve in curves.supported_curves or [] if curve.name not in CURVES]
        finding(bool(weak), f"weak curves {weak}")
    for text in findings:
        print("not ok:", text)
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
