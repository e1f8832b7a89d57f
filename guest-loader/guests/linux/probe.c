// What a shell under Linux cannot do: read the time stamp counter, and write to I/O ports, by
// which a guest ends its run (guest-loader/abi).
//
//     probe ticks               prints the counter as 0x and 16 digits
//     probe out PORT VALUE      writes a byte
//     probe out32 PORT VALUE    writes four bytes
//
// A 32-bit program without any library, so that one file runs on 32- and 64-bit kernels.
// Numbers are decimal, or hexadecimal with 0x. Exit status: 0, or 1 for a wrong use, or 2 where
// the kernel refuses port I/O.

typedef unsigned long word;

enum { EXIT = 1, WRITE = 4, IOPL = 110 };

static word call(word number, word a, word b, word c)
{
	word result;
	asm volatile("int $0x80"
		     : "=a"(result)
		     : "a"(number), "b"(a), "c"(b), "d"(c)
		     : "memory");
	return result;
}

static int equal(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

// The digit's value, or `base` if it is none.
static word digit(char c, word base)
{
	word value = c >= 'a' ? c - 'a' + 10u : c >= '0' ? c - '0' + 0u : base;
	return value < base ? value : base;
}

static int number(const char *text, word *value)
{
	word base = text[0] == '0' && text[1] == 'x' ? 16 : 10;
	if (base == 16)
		text += 2;
	if (!*text)
		return 0;
	for (*value = 0; *text; text++) {
		if (digit(*text, base) == base)
			return 0;
		*value = *value * base + digit(*text, base);
	}
	return 1;
}

static int ticks(void)
{
	char line[19] = "0x";
	unsigned long long now = __builtin_ia32_rdtsc();
	for (int i = 0; i < 16; i++)
		line[17 - i] = "0123456789abcdef"[now >> (4 * i) & 15];
	line[18] = '\n';
	return call(WRITE, 1, (word)line, sizeof line) == sizeof line ? 0 : 1;
}

static int out(const char *port_text, const char *value_text, int wide)
{
	word port, value;
	if (!number(port_text, &port) || !number(value_text, &value))
		return 1;
	if (call(IOPL, 3, 0, 0))
		return 2;
	if (wide)
		asm volatile("outl %%eax, %%dx" : : "a"(value), "d"(port));
	else
		asm volatile("outb %%al, %%dx" : : "a"(value), "d"(port));
	return 0;
}

static int run(word count, char **words)
{
	if (count == 2 && equal(words[1], "ticks"))
		return ticks();
	if (count == 4 && equal(words[1], "out"))
		return out(words[2], words[3], 0);
	if (count == 4 && equal(words[1], "out32"))
		return out(words[2], words[3], 1);
	return 1;
}

__attribute__((used)) static void start(word *stack)
{
	call(EXIT, run(stack[0], (char **)(stack + 1)), 0, 0);
}

// The kernel starts a program with the number of words and the words themselves on the stack.
asm(".globl _start\n_start: mov %esp, %eax\npush %eax\ncall start\nhlt");
