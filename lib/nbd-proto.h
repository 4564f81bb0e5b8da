/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * nbd-proto.h - the NBD protocol's numbers; for the server and for the client
 *
 * Source: doc/proto.md of the NetworkBlockDevice project.  Everything on the wire is big-endian.
 */
#ifndef NBD_PROTO_H
#define NBD_PROTO_H

#include <errno.h>
#include <stdint.h>

#define NBD_MAGIC		0x4e42444d41474943ULL	/* "NBDMAGIC" */
#define NBD_OPT_MAGIC		0x49484156454F5054ULL	/* "IHAVEOPT" */
#define NBD_OPT_REPLY_MAGIC	0x0003e889045565a9ULL
#define NBD_REQUEST_MAGIC	0x25609513u
#define NBD_EXT_REQUEST_MAGIC	0x21e41c71u
#define NBD_SIMPLE_REPLY_MAGIC	0x67446698u
#define NBD_STRUCT_REPLY_MAGIC	0x668e33efu
#define NBD_EXT_REPLY_MAGIC	0x6e8a278cu

#define NBD_PORT	"10809"
#define NBD_STRING_MAX	4096		/* of names, queries, messages */

enum {		/* lengths of headers */
	NBD_OPT_HEADER		= 16,	/* after the magic of its reply: 20 */
	NBD_OPT_REPLY_HEADER	= 20,
	NBD_REQUEST_LEN		= 28,
	NBD_EXT_REQUEST_LEN	= 32,
	NBD_SIMPLE_REPLY_LEN	= 16,
	NBD_STRUCT_REPLY_LEN	= 20,
	NBD_EXT_REPLY_LEN	= 32,
};

enum {		/* handshake flags, of both sides */
	NBD_FLAG_FIXED_NEWSTYLE	= 1 << 0,
	NBD_FLAG_NO_ZEROES	= 1 << 1,
};

enum nbd_opt {
	NBD_OPT_EXPORT_NAME		= 1,
	NBD_OPT_ABORT			= 2,
	NBD_OPT_LIST			= 3,
	NBD_OPT_PEEK_EXPORT		= 4,	/* withdrawn */
	NBD_OPT_STARTTLS		= 5,
	NBD_OPT_INFO			= 6,
	NBD_OPT_GO			= 7,
	NBD_OPT_STRUCTURED_REPLY	= 8,
	NBD_OPT_LIST_META_CONTEXT	= 9,
	NBD_OPT_SET_META_CONTEXT	= 10,
	NBD_OPT_EXTENDED_HEADERS	= 11,
};

#define NBD_REP_ERROR 0x80000000u
enum nbd_rep {
	NBD_REP_ACK		= 1,
	NBD_REP_SERVER		= 2,
	NBD_REP_INFO		= 3,
	NBD_REP_META_CONTEXT	= 4,
};
#define NBD_REP_ERR_UNSUP		(NBD_REP_ERROR + 1)
#define NBD_REP_ERR_POLICY		(NBD_REP_ERROR + 2)
#define NBD_REP_ERR_INVALID		(NBD_REP_ERROR + 3)
#define NBD_REP_ERR_PLATFORM		(NBD_REP_ERROR + 4)
#define NBD_REP_ERR_TLS_REQD		(NBD_REP_ERROR + 5)
#define NBD_REP_ERR_UNKNOWN		(NBD_REP_ERROR + 6)
#define NBD_REP_ERR_SHUTDOWN		(NBD_REP_ERROR + 7)
#define NBD_REP_ERR_BLOCK_SIZE_REQD	(NBD_REP_ERROR + 8)
#define NBD_REP_ERR_TOO_BIG		(NBD_REP_ERROR + 9)
#define NBD_REP_ERR_EXT_HEADER_REQD	(NBD_REP_ERROR + 10)

enum nbd_info {
	NBD_INFO_EXPORT		= 0,
	NBD_INFO_NAME		= 1,
	NBD_INFO_DESCRIPTION	= 2,
	NBD_INFO_BLOCK_SIZE	= 3,
};

enum {		/* transmission flags */
	NBD_FLAG_HAS_FLAGS		= 1 << 0,
	NBD_FLAG_READ_ONLY		= 1 << 1,
	NBD_FLAG_SEND_FLUSH		= 1 << 2,
	NBD_FLAG_SEND_FUA		= 1 << 3,
	NBD_FLAG_ROTATIONAL		= 1 << 4,
	NBD_FLAG_SEND_TRIM		= 1 << 5,
	NBD_FLAG_SEND_WRITE_ZEROES	= 1 << 6,
	NBD_FLAG_SEND_DF		= 1 << 7,
	NBD_FLAG_CAN_MULTI_CONN		= 1 << 8,
	NBD_FLAG_SEND_RESIZE		= 1 << 9,
	NBD_FLAG_SEND_CACHE		= 1 << 10,
	NBD_FLAG_SEND_FAST_ZERO		= 1 << 11,
	NBD_FLAG_BLOCK_STAT_PAYLOAD	= 1 << 12,
};

enum nbd_cmd {
	NBD_CMD_READ		= 0,
	NBD_CMD_WRITE		= 1,
	NBD_CMD_DISC		= 2,
	NBD_CMD_FLUSH		= 3,
	NBD_CMD_TRIM		= 4,
	NBD_CMD_CACHE		= 5,
	NBD_CMD_WRITE_ZEROES	= 6,
	NBD_CMD_BLOCK_STATUS	= 7,
	NBD_CMD_RESIZE		= 8,
};

enum {		/* of a command */
	NBD_CMD_FLAG_FUA		= 1 << 0,
	NBD_CMD_FLAG_NO_HOLE		= 1 << 1,
	NBD_CMD_FLAG_DF			= 1 << 2,
	NBD_CMD_FLAG_REQ_ONE		= 1 << 3,
	NBD_CMD_FLAG_FAST_ZERO		= 1 << 4,
	NBD_CMD_FLAG_PAYLOAD_LEN	= 1 << 5,
};

#define NBD_CHUNK_DONE 1u		/* flag of a chunk */
#define NBD_CHUNK_IS_ERROR 0x8000u
enum {
	NBD_CHUNK_NONE			= 0,
	NBD_CHUNK_OFFSET_DATA		= 1,
	NBD_CHUNK_OFFSET_HOLE		= 2,
	NBD_CHUNK_BLOCK_STATUS		= 5,
	NBD_CHUNK_BLOCK_STATUS_EXT	= 6,
	NBD_CHUNK_ERROR			= NBD_CHUNK_IS_ERROR + 1,
	NBD_CHUNK_ERROR_OFFSET		= NBD_CHUNK_IS_ERROR + 2,
};

enum {		/* base:allocation */
	NBD_STATE_HOLE	= 1 << 0,
	NBD_STATE_ZERO	= 1 << 1,
};

enum nbd_errno {
	NBD_EPERM	= 1,
	NBD_EIO		= 5,
	NBD_ENOMEM	= 12,
	NBD_EINVAL	= 22,
	NBD_ENOSPC	= 28,
	NBD_EOVERFLOW	= 75,
	NBD_ENOTSUP	= 95,
	NBD_ESHUTDOWN	= 108,
};

#endif
