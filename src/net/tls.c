/*
 * tls.c - see tls.h.
 *
 * The key is an external PSK in TLS 1.3's sense, with an ephemeral key exchange beside it: recorded traffic
 * stays secret should the key become known. The socket is reached through a BIO of our own, since OpenSSL's
 * writes without MSG_NOSIGNAL, and a library must not let its caller die of SIGPIPE.
 */
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#undef lh_error /* OpenSSL's hash tables have macros that begin like our names */

#include "net/tls.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/socket.h"
#include "sys/sys.h"

#define IDENTITY "linehome"

struct lh_tls_context {
	SSL_CTX *ssl;
	struct lh_node_key key;
};

struct lh_tls {
	SSL *ssl;
	BIO_METHOD *method; /* its own, since a relay outlives the context */
	int fd;
};

/* ---- the socket ---- */

static int bio_write(BIO *bio, const char *data, int size)
{
	ssize_t sent = send((int)(intptr_t)BIO_get_data(bio), data, (size_t)size, MSG_NOSIGNAL);

	BIO_clear_retry_flags(bio);
	if (sent < 0 && (errno == EAGAIN || errno == EINTR))
		BIO_set_retry_write(bio);
	return (int)sent;
}

static int bio_read(BIO *bio, char *data, int size)
{
	ssize_t got = recv((int)(intptr_t)BIO_get_data(bio), data, (size_t)size, 0);

	BIO_clear_retry_flags(bio);
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		BIO_set_retry_read(bio);
	return (int)got;
}

static long bio_control(BIO *bio, int command, long number, void *pointer)
{
	return command == BIO_CTRL_FLUSH;
}

static BIO_METHOD *make_method(void)
{
	BIO_METHOD *method = BIO_meth_new(BIO_TYPE_SOCKET, "linehome socket");

	if (method && BIO_meth_set_write(method, bio_write) && BIO_meth_set_read(method, bio_read) &&
	    BIO_meth_set_ctrl(method, bio_control))
		return method;
	BIO_meth_free(method);
	return NULL;
}

/* ---- the key ---- */

static struct lh_tls_context *context_of(SSL *ssl)
{
	return SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
}

static SSL_SESSION *key_session(SSL *ssl)
{
	static const unsigned char aes_128_gcm_sha256[2] = { 0x13, 0x01 };
	struct lh_tls_context *context = context_of(ssl);
	const SSL_CIPHER *cipher = SSL_CIPHER_find(ssl, aes_128_gcm_sha256);
	SSL_SESSION *session = SSL_SESSION_new();

	if (session && cipher &&
	    SSL_SESSION_set1_master_key(session, context->key.byte, sizeof context->key.byte) &&
	    SSL_SESSION_set_cipher(session, cipher) &&
	    SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION))
		return session;
	SSL_SESSION_free(session);
	return NULL;
}

static int use_key(SSL *ssl, const EVP_MD *digest, const unsigned char **id, size_t *size,
                   SSL_SESSION **session)
{
	*session = key_session(ssl);
	*id = (const unsigned char *)IDENTITY;
	*size = strlen(IDENTITY);
	return *session != NULL;
}

static int find_key(SSL *ssl, const unsigned char *id, size_t size, SSL_SESSION **session)
{
	bool known = size == strlen(IDENTITY) && memcmp(id, IDENTITY, size) == 0;

	*session = known ? key_session(ssl) : NULL;
	return !known || *session != NULL;
}

int lh__tls_context_open(bool server, const struct lh_node_key *key, struct lh_tls_context **out,
                         struct lh_error *error)
{
	struct lh_tls_context *context = calloc(1, sizeof *context);

	if (!context)
		return lh__fail(error, -ENOMEM, "no memory");
	context->key = *key;
	context->ssl = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
	if (!context->ssl || !SSL_CTX_set_min_proto_version(context->ssl, TLS1_3_VERSION) ||
	    !SSL_CTX_set_ciphersuites(context->ssl, "TLS_AES_128_GCM_SHA256") ||
	    !SSL_CTX_set_num_tickets(context->ssl, 0) || !SSL_CTX_set_app_data(context->ssl, context)) {
		lh__tls_context_close(context);
		return lh__fail(error, -EIO, "OpenSSL cannot be set up for TLS 1.3 with a key");
	}
	SSL_CTX_set_mode(context->ssl, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_session_cache_mode(context->ssl, SSL_SESS_CACHE_OFF);
	if (server) {
		SSL_CTX_set_psk_find_session_callback(context->ssl, find_key);
	} else {
		SSL_CTX_set_psk_use_session_callback(context->ssl, use_key);
		SSL_CTX_set_verify(context->ssl, SSL_VERIFY_PEER,
		                   NULL); /* a certificate is not what we want */
	}
	*out = context;
	return 0;
}

void lh__tls_context_close(struct lh_tls_context *context)
{
	if (!context)
		return;
	SSL_CTX_free(context->ssl);
	OPENSSL_cleanse(&context->key, sizeof context->key);
	free(context);
}

/* ---- connections ---- */

static int say_failure(struct lh_error *error)
{
	unsigned long code = ERR_peek_error();
	int reason = ERR_GET_REASON(code);
	const char *text = ERR_reason_error_string(code);

	ERR_clear_error();
	if (code == 0)
		return lh__fail(error, -ECONNRESET, "the connection ended during the TLS handshake");
	if (reason == SSL_R_WRONG_VERSION_NUMBER || reason == SSL_R_HTTP_REQUEST ||
	    reason == SSL_R_PACKET_LENGTH_TOO_LONG || reason == SSL_R_UNEXPECTED_MESSAGE ||
	    reason == SSL_R_HTTPS_PROXY_REQUEST)
		return lh__fail(error, -EPROTO, "the other side does not speak TLS");
	if (reason == SSL_R_UNEXPECTED_EOF_WHILE_READING)
		return lh__fail(error, -ECONNRESET, "the connection ended during the TLS handshake");
	return lh__fail(error, -EACCES, "the other side has another key, or none (%s)",
	                text ? text : "TLS error");
}

static int shake_hands(struct lh_tls *tls, uint64_t deadline_ms, struct lh_error *error)
{
	for (;;) {
		int result, kind;

		ERR_clear_error();
		result = SSL_do_handshake(tls->ssl);
		if (result == 1)
			break;
		kind = SSL_get_error(tls->ssl, result);
		if (kind != SSL_ERROR_WANT_READ && kind != SSL_ERROR_WANT_WRITE)
			return say_failure(error);
		if (lh__net_now_ms() >= deadline_ms)
			return lh__fail(error, -ETIMEDOUT, "no answer during the TLS handshake");
	}
	if (!SSL_session_reused(tls->ssl))
		return lh__fail(error, -EACCES, "the other side did not use the key");
	return 0;
}

static void destroy(struct lh_tls *tls)
{
	SSL_free(tls->ssl);
	BIO_meth_free(tls->method);
	ERR_clear_error();
	free(tls);
}

static struct lh_tls *make(struct lh_tls_context *context, int fd)
{
	struct lh_tls *tls = calloc(1, sizeof *tls);
	BIO *bio = NULL;

	if (!tls)
		return NULL;
	tls->fd = fd;
	tls->ssl = SSL_new(context->ssl);
	tls->method = make_method();
	if (tls->ssl && tls->method)
		bio = BIO_new(tls->method);
	if (!bio) {
		destroy(tls);
		return NULL;
	}
	BIO_set_data(bio, (void *)(intptr_t)fd);
	BIO_set_init(bio, 1);
	SSL_set_bio(tls->ssl, bio, bio);
	return tls;
}

int lh__tls_open(struct lh_tls_context *context, int fd, uint64_t deadline_ms, struct lh_tls **out,
                 struct lh_error *error)
{
	struct lh_tls *tls = make(context, fd);
	int result;

	if (!tls)
		return lh__fail(error, -ENOMEM, "no memory for a TLS connection");
	if (SSL_is_server(tls->ssl))
		SSL_set_accept_state(tls->ssl);
	else
		SSL_set_connect_state(tls->ssl);
	lh__socket_timeout(fd, 100);
	result = shake_hands(tls, deadline_ms, error);
	lh__socket_timeout(fd, 0);
	if (result) {
		destroy(tls);
		return result;
	}
	*out = tls;
	return 0;
}

void lh__tls_close(struct lh_tls *tls)
{
	if (!tls)
		return;
	lh__socket_timeout(tls->fd, 10);
	(void)SSL_shutdown(tls->ssl);
	destroy(tls);
}

static long outcome(struct lh_tls *tls, int result)
{
	int kind;

	if (result > 0)
		return result;
	kind = SSL_get_error(tls->ssl, result);
	ERR_clear_error();
	if (kind == SSL_ERROR_ZERO_RETURN)
		return 0;
	return kind == SSL_ERROR_WANT_READ || kind == SSL_ERROR_WANT_WRITE ? -EAGAIN : -ECONNRESET;
}

long lh__tls_read(struct lh_tls *tls, void *buffer, size_t size)
{
	return outcome(tls, SSL_read(tls->ssl, buffer, (int)(size < 1 << 30 ? size : 1 << 30)));
}

long lh__tls_write(struct lh_tls *tls, const void *buffer, size_t size)
{
	return outcome(tls, SSL_write(tls->ssl, buffer, (int)(size < 1 << 30 ? size : 1 << 30)));
}

bool lh__tls_pending(const struct lh_tls *tls)
{
	return SSL_pending(tls->ssl) > 0;
}

/* ---- relay ---- */

struct pipe {
	size_t begin, end;
	unsigned char bytes[65536];
};

struct relay {
	struct lh_tls *tls;
	int plain;
	struct pipe out, in; /* plain to tls, tls to plain */
};

/* Moves what can be moved; -1 where a side has ended. A pipe is read into only when it is empty. */
static int move_out(struct relay *relay)
{
	struct pipe *pipe = &relay->out;
	long n = 0;

	if (pipe->begin == pipe->end) {
		n = recv(relay->plain, pipe->bytes, sizeof pipe->bytes, MSG_DONTWAIT);
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
			return -1;
		pipe->begin = 0;
		pipe->end = n > 0 ? (size_t)n : 0;
	}
	while (pipe->begin != pipe->end) {
		n = lh__tls_write(relay->tls, pipe->bytes + pipe->begin, pipe->end - pipe->begin);
		if (n <= 0)
			return n == -EAGAIN ? 0 : -1;
		pipe->begin += (size_t)n;
	}
	return 0;
}

static int move_in(struct relay *relay)
{
	struct pipe *pipe = &relay->in;
	long n;

	do {
		if (pipe->begin == pipe->end) {
			n = lh__tls_read(relay->tls, pipe->bytes, sizeof pipe->bytes);
			if (n == -EAGAIN)
				return 0;
			if (n <= 0)
				return -1;
			pipe->begin = 0;
			pipe->end = (size_t)n;
		}
		n = send(relay->plain, pipe->bytes + pipe->begin, pipe->end - pipe->begin,
		         MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0)
			return errno == EAGAIN || errno == EINTR ? 0 : -1;
		pipe->begin += (size_t)n;
	} while (pipe->begin == pipe->end);
	return 0;
}

static void wait_for_either(struct relay *relay)
{
	struct pollfd side[2] = {
		{ .fd = relay->plain, .events = relay->out.begin == relay->out.end ? POLLIN : 0 },
		{ .fd = relay->tls->fd, .events = relay->in.begin == relay->in.end ? POLLIN : 0 },
	};

	if (relay->in.begin != relay->in.end)
		side[0].events |= POLLOUT;
	if (relay->out.begin != relay->out.end)
		side[1].events |= POLLOUT;
	(void)poll(side, 2, -1);
}

static void *relay_thread(void *argument)
{
	struct relay *relay = argument;
	int fd = relay->tls->fd;

	while (move_out(relay) == 0 && move_in(relay) == 0)
		wait_for_either(relay);
	shutdown(relay->plain, SHUT_RDWR);
	close(relay->plain);
	lh__tls_close(relay->tls);
	close(fd);
	free(relay);
	return NULL;
}

static int start_thread(struct relay *relay)
{
	sigset_t all, before;
	pthread_t thread;
	int result;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	result = pthread_create(&thread, NULL, relay_thread, relay);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (result == 0)
		pthread_detach(thread);
	return -result;
}

int lh__tls_relay(struct lh_tls *tls, int fd, int *plain)
{
	struct relay *relay = calloc(1, sizeof *relay);
	int pair[2], result;

	if (!relay)
		return -ENOMEM;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
		result = -errno;
		free(relay);
		return result;
	}
	relay->tls = tls;
	relay->plain = pair[0];
	result = fcntl(fd, F_SETFL, O_NONBLOCK) == 0 ? start_thread(relay) : -errno;
	if (result) {
		close(pair[0]);
		close(pair[1]);
		free(relay);
		return result;
	}
	*plain = pair[1];
	return 0;
}
