#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
#
# TLS with certificates and with pre-shared keys: our server and client, against GnuTLS's of libnbd,
# QEMU and nbdkit.  Who may not in, stays out.
# shellcheck source=tests/cli/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cli/lib-nbd.sh
. "$(dirname "$0")/lib-nbd.sh"
need openssl nbdinfo nbdcopy qemu-io nbdkit

mkdir pki psk
{
	openssl req -x509 -newkey rsa:2048 -nodes -keyout pki/ca-key.pem -out pki/ca-cert.pem -subj /CN=ca -days 3
	for who in server client; do
		openssl req -newkey rsa:2048 -nodes -keyout pki/$who-key.pem -out $who.csr -subj /CN=$who
		openssl x509 -req -in $who.csr -CA pki/ca-cert.pem -CAkey pki/ca-key.pem -CAcreateserial -days 3 \
			-out pki/$who-cert.pem -extfile <(echo "subjectAltName=DNS:localhost,IP:127.0.0.1")
	done
} >/dev/null 2>&1
mkdir nocert && cp pki/ca-cert.pem nocert
echo "alice:$(openssl rand -hex 32)" >psk/keys.psk
echo "alice:$(openssl rand -hex 32)" >wrong.psk
head -c 8M /dev/urandom >data
key="tls-psk-file=$PWD/psk/keys.psk" crt="tls-certificates=$PWD/pki"

truncate -s 8M copy.raw
