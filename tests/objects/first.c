/* first.c - one of two libraries that take the same place, one after the other: second.c. */
int which(int add);
int which(int add)
{
	return add + 1000;
}
