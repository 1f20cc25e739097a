/* second.c - as first.c, but for what it returns. */
int which(int add);
int which(int add)
{
	return add * 3 + 7;
}
