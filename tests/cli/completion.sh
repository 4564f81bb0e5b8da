#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# completion: made from the tables, and it completes
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

tapimg completion bash >comp.bash
works "bash takes it" bash -n comp.bash
# shellcheck disable=SC1091
. ./comp.bash
complete_at() { # words before, the word being completed
	COMP_WORDS=("$@")
	COMP_CWORD=$(($# - 1))
	COMPREPLY=()
	_tapimg
	echo "${COMPREPLY[*]}"
}
touch a.img b.img
like "verbs" "$(complete_at tapimg '')" 'create.*info.*snapshot'
is "a verb begun" "$(complete_at tapimg inf)" info
like "long options" "$(complete_at tapimg check --)" '--repair'
is "values of an option" "$(complete_at tapimg check -r '')" 'leaks all'
is "formats" "$(complete_at tapimg info -f q)" 'qcow qcow2'
is "a value after =" "$(complete_at tapimg info --output = j)" 'json'
is "directly after =" "$(complete_at tapimg info --output =)" 'human json'
is "cache modes" "$(complete_at tapimg check -T write)" 'writeback writethrough'
is "files" "$(complete_at tapimg info a)" 'a.img'
is "files after an option that takes one" "$(complete_at tapimg create -b b)" 'b.img'
like "also under the name qemu-img" "$(complete -p qemu-img)" "-F _tapimg qemu-img"

tapimg completion zsh >_tapimg
tapimg completion fish >tapimg.fish
for shell in zsh fish; do
	if command -v $shell >/dev/null; then
		works "$shell takes it" $shell -n "$([ $shell = zsh ] && echo _tapimg || echo tapimg.fish)"
	else
		skip "$shell takes it" "$shell is not installed"
	fi
done
for verb in $(tapimg --list-commands); do
	like "zsh knows $verb" "$(cat _tapimg)" "\\($verb\\)"
	like "fish knows $verb" "$(cat tapimg.fish)" " -a $verb "
done
# programs with blktap's command lines
for prog in vhd-util td-util cbt-util; do
	"$(dirname "$TAPIMG")/$prog" completion bash >util.bash
	works "$prog: bash takes it" bash -n util.bash
	for verb in $("$(dirname "$TAPIMG")/$prog" --list-commands); do
		like "$prog $verb" "$(cat util.bash)" "^	$verb\\)"
	done
done
"$(dirname "$TAPIMG")/vhd-util" completion bash >util.bash
# shellcheck disable=SC1091
. ./util.bash
COMP_WORDS=(vhd-util set -f '') COMP_CWORD=3 COMPREPLY=()
_vhd_util
is "values of an option of vhd-util" "${COMPREPLY[*]}" "hidden marker"

exits "a shell that is none" 1 "'tcsh'" tapimg completion tcsh
exits "no shell" 1 'bash' tapimg completion
done_testing
